"""What `training_step`, a hook or another branch reads inside the network is found before the first step, and stays."""

import copy
import random
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from helpers.features import refused, works
from helpers.networks import conv
from helpers.training import Lit, images, loader, outputs, trainer
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

import gdp
from gdp import GDPCallback

pytestmark = pytest.mark.slow

WAYS = pytest.mark.parametrize("shrink", ["epoch", "end"])


class Net(nn.Module):
    """Three stages with a classifier; a head for another task; a neck that `forward` never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 16), conv(16, 24), conv(24, 24), nn.Linear(24, 4)
        self.neck, self.depth = conv(24, 12), nn.Conv2d(24, 1, 1)

    def forward(self, x, task="classify"):
        x = self.b(self.a(x))
        return self.depth(x) if task == "depth" else self.head(self.c(x).mean((2, 3)))


class Reads(Lit):
    """A run whose loss has a part beside `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def beside(self, x):
        raise NotImplementedError

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y) + self.beside(x)


class Neck(Reads):
    def beside(self, x):
        return self.net.neck(self.net.b(self.net.a(x))).square().mean()


class HeadOutside(Reads):
    """An auxiliary head in the LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(24, 4)

    def beside(self, x):
        return self.auxiliary(self.net.b(self.net.a(x)).mean((2, 3))).square().mean()


class Task(Reads):
    """A head that an argument of `forward` chooses."""

    def beside(self, x):
        return self.net(x, task="depth").square().mean()


class DeepSupervision(Reads):
    """Hooks of the user's hand features to small heads."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.heads = {}, nn.ModuleList([nn.Linear(16, 4), nn.Linear(24, 4)])
        for name in ("a", "b"):
            getattr(self.net, name).register_forward_hook(
                lambda m, i, out, name=name: self.features.update({name: out})
            )

    def beside(self, x):
        found = [head(self.features[name].mean((2, 3))) for name, head in zip("ab", self.heads, strict=True)]
        self.features.clear()
        return sum(f.square().mean() for f in found)


class Distillation(Reads):
    """The features of a wider teacher, through an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(conv(3, 20), conv(20, 40)).requires_grad_(False)
        self.adapter = nn.Conv2d(24, 40, 1)

    def beside(self, x):
        return F.mse_loss(self.adapter(self.net.b(self.net.a(x))), self.teacher(x))


class Attention(Reads):
    """A loss on the mean over channels, which no cut would make fail."""

    def beside(self, x):
        return (self.net.b(self.net.a(x)).mean(1) - x.mean(1)).square().mean()


READERS = [Neck, HeadOutside, Task, Distillation, Attention]


def pruned(make, target=0.5, epochs=4, **kw):
    pl.seed_everything(0)
    lit, pruning = make(), GDPCallback(target, module="net", **kw)
    trainer(pruning, epochs=epochs).fit(lit, loader())
    assert target - 0.05 <= pruning.report.remaining <= target
    assert pruning.report.flops_after == pruning.report.flops_predicted
    return lit, {frozen.name: frozen.reason for frozen in pruning.report.frozen}, pruning


@works(
    "Training loop", "`training_step` or a hook that reads inside the network, beside `forward`", "what it reads stays"
)
@WAYS
@pytest.mark.parametrize("make", READERS)
def test_what_the_step_reads_stays_and_the_step_runs_on_the_small_network(make, shrink):
    lit, stays, pruning = pruned(make, shrink=shrink)
    assert "training_step" in stays["b.0"] and lit.net.b[0].out_channels == 24
    assert "a.0" not in stays and lit.net.a[0].out_channels < 16
    assert "b.0" not in [name for name, *_ in pruning.report.groups]
    if make is not Attention:
        assert f"raised at {__name__.rpartition('.')[2]}.py" in stays["b.0"]
    assert lit.train().training_step(images(4)[:4], 0).isfinite()


def test_hooks_that_the_user_registered_are_run_in_the_trial():
    lit, stays, _ = pruned(DeepSupervision, 0.7)
    assert "training_step" in stays["a.0"] and "training_step" in stays["b.0"] and "c.0" not in stays
    assert lit.train().training_step(images(4)[:4], 0).isfinite()


@refused(
    "Training loop",
    "a target that is out of reach since `training_step` reads too much beside `forward`",
    "target_flops=… is out of reach…training_step can't follow a cut…",
)
def test_a_target_out_of_reach_is_refused_before_the_first_step(refusal):
    class All(Reads):
        def beside(self, x):
            a = self.net.a(x)
            b = self.net.b(a)
            return sum(f.mean((0, 2, 3)) @ torch.ones(n) for f, n in ((a, 16), (b, 24), (self.net.c(b), 24)))

    lit, run = All(), trainer(GDPCallback(0.3, module="net"))
    before = copy.deepcopy(lit.state_dict())
    with refusal:
        run.fit(lit, loader())
    assert run.global_step == 0 and lit.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in lit.state_dict().items())


def test_a_penalty_on_all_activations_is_no_reason_to_refuse_a_target():
    class Sparse(Reads):
        def beside(self, x):
            a = self.net.a(x)
            b = self.net.b(a)
            return 1e-3 * (a.abs().mean() + b.abs().mean() + self.net.c(b).abs().mean())

    with pytest.warns(UserWarning, match="out of reach if all of it stays"):
        _, stays, _ = pruned(Sparse, 0.3)
    assert not any("training_step" in reason for reason in stays.values())


def test_a_penalty_on_weights_leaves_every_group_free():
    class Decay(Reads):
        def beside(self, x):
            return 1e-4 * sum(p.abs().sum() for p in self.net.parameters())

    assert not any("training_step" in reason for reason in pruned(Decay, 0.3)[1].values())


def test_what_hooks_prepare_for_the_step_is_there_in_the_trial():
    class Prepared(Neck):
        def on_train_batch_start(self, batch, batch_idx):
            self.weight = 0.5
            return -1 if self.trainer.current_epoch == 0 else None

        def training_step(self, batch, batch_idx):
            return self.weight * super().training_step(batch, batch_idx)

        def on_train_batch_end(self, *_):
            del self.weight

    lit, stays, _ = pruned(Prepared, epochs=5)
    assert "training_step can't follow a cut" in stays["b.0"] and "on_train_batch_start" not in vars(lit)


# nothing of the trial stays


RAN = []  # batches, by no object that the module holds


class Remembers(Reads):
    """Draws numbers, counts, logs, changes its batch, and remembers in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.net.drop, self.seen, self.sums, self.total = nn.Dropout(0.3), [], {"y": 0}, torch.zeros(())
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=4)
        self.register_buffer("queue", torch.zeros(4))

    def training_step(self, batch, batch_idx):
        x, y = batch["x"], batch.pop("y")
        RAN.append(batch_idx)
        drawn = (torch.rand(()).item(), random.random(), np.random.rand())
        self.seen.append(drawn)
        self.sums["y"] += int(y.sum())
        self.total += y.sum()
        self.queue.copy_(y[:4])
        x.mul_(1.5)
        out = self.net.drop(self.net(x))
        self.accuracy(out, y)
        self.log("accuracy", self.accuracy, on_step=True)
        if self.logger is not None:
            self.logger.experiment.log_metrics({"by hand": drawn[0]})
        f = self.net.b(self.net.a(x))
        loss = self.loss(out, y) + self.net.neck(f).square().mean()
        self.log_dict({"loss": loss}, on_step=True)
        return loss


def remembered(tmp_path, *callbacks, **kw):
    def collate(rows):
        x, y = torch.utils.data.default_collate(rows)
        return {"x": x, "y": y}

    pl.seed_everything(0)
    RAN.clear()
    lit, log = Remembers(), CSVLogger(tmp_path)
    run = trainer(*callbacks, logger=log, log_every_n_steps=1, epochs=1, num_sanity_val_steps=0, **kw)
    run.fit(lit, DataLoader(images(), 16, collate_fn=collate))
    run.loggers[0].save()
    rows = [line for line in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines() if line]
    return lit, list(RAN), rows


def test_nothing_of_the_trial_stays(tmp_path):
    """The window opens at the last step, so all steps are those of a run without gdp."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, calls, rows = remembered(tmp_path / "plain")
        late = gdp.Polar(start=0.9, end=1.0)
        lit, more, logged = remembered(tmp_path / "gdp", GDPCallback(0.9, module="net", method=late, shrink="end"))
    assert len(calls) == 4 and len(more) > len(calls) and more[-4:] == calls
    assert lit.seen == plain.seen and lit.sums == plain.sums and torch.equal(lit.total, plain.total)
    assert torch.equal(lit.queue, plain.queue) and len(logged) == len(rows)


def test_the_first_step_is_bit_for_bit_that_of_a_run_without_gdp():
    def first(*callbacks):
        pl.seed_everything(0)
        lit = Neck()
        lit.net.c.append(nn.Dropout(0.5))
        trainer(*callbacks, epochs=1, max_steps=1).fit(lit, loader())
        return lit

    plain, lit = first(), first(GDPCallback(1.0, module="net"))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), lit.parameters(), strict=True))
    assert all(torch.equal(b, c) for b, c in zip(plain.buffers(), lit.buffers(), strict=True))


CALLS = {
    "polar": {},
    "accumulation": {"accumulate_grad_batches": 4},
    "sanity": {"num_sanity_val_steps": 2},
}


@pytest.mark.parametrize("name", CALLS)
def test_a_trial_that_finds_nothing_takes_three_calls_at_the_first_batch(name):
    calls = []

    class Counts(Reads):
        def training_step(self, batch, batch_idx):
            calls.append((self.trainer.global_step, batch_idx, self.training))
            return self.loss(self.net(batch[0]), batch[1])

    lit = Counts()
    trainer(GDPCallback(0.5, module="net"), epochs=2, **CALLS[name]).fit(lit, loader(), loader())
    assert len(calls) == 3 + 8 and all(training for *_, training in calls)
    assert [index for _, index, _ in calls] == [0, 0, 0] + [0, 1, 2, 3] * 2


def test_a_resumed_run_makes_no_trial_and_knows_what_stays(tmp_path):
    def build():
        pl.seed_everything(0)
        return Neck(), GDPCallback(0.5, module="net")

    lit, pruning = build()
    trainer(pruning, epochs=4).fit(lit, loader())

    class Saves(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    first, early = build()
    trainer(early, Saves(), epochs=4).fit(first, loader())
    again, late = build()
    trainer(late, epochs=4).fit(again, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert late.report.groups == pruning.report.groups and late.report.frozen == pruning.report.frozen
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), lit.parameters(), strict=True))


# where training_step can't be tried


class Manual(Neck):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@refused(
    "Training loop",
    "manual optimization of parameters that `forward` never reads, with cuts in training",
    "… have a gradient, but forward never reads them, and training_step could not be tried on a cut network…"
    "ignore=[...], or cut when training is over: GDPCallback(shrink='end').",
)
def test_manual_optimization_of_what_forward_never_reads_is_refused_at_the_first_step(refusal):
    pruning = GDPCallback(0.5, module="net")
    run = trainer(pruning)
    with refusal as error:
        run.fit(Manual(), loader())
    assert str(error.value).startswith("neck.0.bias, neck.0.weight, neck.1.bias and 1 more of Net have a gradient")
    assert run.global_step == 0 and pruning.pruner is None


def test_manual_optimization_that_cuts_at_the_end_warns():
    with pytest.warns(UserWarning, match=r"neck\.0\.bias.* have a gradient, but forward never reads them.*ignore="):
        pruned(Manual, shrink="end")


def test_ignoring_what_is_read_and_what_reads_it_lets_manual_optimization_run():
    lit, stays, _ = pruned(Manual, ignore=["neck", "b"])
    assert "ignored" in stays["b.0"] and lit.net.c[0].out_channels < 24


def test_trained_parameters_that_forward_never_reads_are_told_of_once(recwarn):
    pruned(Neck)
    told = [str(w.message) for w in recwarn if "forward never reads" in str(w.message)]
    assert len(told) == 1 and "\n" not in told[0] and "neck.0.weight" in told[0]


def test_a_step_without_a_loss_at_first_is_trained_on():
    class Skips(Reads):
        def training_step(self, batch, batch_idx):
            return None if self.trainer.global_step == 0 and batch_idx == 0 else self.loss(self.net(batch[0]), batch[1])

    pruned(Skips, epochs=6)


def test_outputs_are_those_of_the_step_before_and_after_the_removal():
    lit, *_ = pruned(HeadOutside)
    assert outputs(lit).isfinite().all()
