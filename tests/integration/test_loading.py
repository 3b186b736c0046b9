"""Loading checkpoints in unusual circumstances: averages, several callbacks, hooks of the user's, runs that change."""

import torch
from helpers.training import Lit
from torch import nn


class Tested(Lit):
    def test_step(self, batch, batch_idx):
        self.log("test", self(batch[0]).sum())


# what LightningModules do when they load and save


class Teacher(Tested):
    """Its teacher is left out of checkpoints, and comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(3, 3)


class Filtered(Teacher):
    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False

    def state_dict(self, *args, **kw):
        return {k: v for k, v in super().state_dict(*args, **kw).items() if "teacher" not in k}


class Extra(Tested):
    """Keeps something that is no tensor."""

    kept = 3

    def get_extra_state(self):
        return {"kept": self.kept}

    def set_extra_state(self, state):
        self.kept = state["kept"]


# runs that are not what they were


class Turns(Tested):
    """Two optimizers take turns, batch by batch: `turn` says which of them steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization, self.critic = False, nn.Linear(4, 1)

    def turn(self, batch_idx: int) -> int:
        return self.global_step % 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.critic.parameters(), 0.01), torch.optim.SGD(self.net.parameters(), 0.05)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[self.turn(batch_idx)]
        optimizer.zero_grad()
        out = self.net(batch[0])
        self.manual_backward(self.loss(out, batch[1]) + self.critic(out).mean())
        optimizer.step()


# networks that stay behind
