"""Two networks with different inputs in one run: every callback is given an example of its own."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from helpers.networks import conv
from helpers.training import Lit, images, loader, small_net, trainer
from pytorch_lightning.cli import LightningCLI
from torch import nn

from gdp import GDPCallback, GDPError
from gdp.utils import count_flops


class GAN(pl.LightningModule):
    """A generator of pictures of noise, and a discriminator of pictures, by manual optimization."""

    noise = 6

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        start = [nn.Linear(self.noise, 16 * 9), nn.ReLU(), nn.Unflatten(1, (16, 3, 3))]
        end = [nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2), nn.Tanh()]
        self.generator = nn.Sequential(*start, *end)
        self.discriminator = nn.Sequential(*small_net()[:-1], nn.Linear(64, 1))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        real, _ = batch
        self.seen.append(real)
        teach, judge = self.optimizers()
        z = torch.randn(len(real), self.noise)

        def loss(pictures, label):
            found = self.discriminator(pictures)
            return nn.functional.binary_cross_entropy_with_logits(found, torch.full_like(found, label))

        for optimizer, losses in (
            (teach, lambda: loss(self.generator(z), 1.0)),
            (judge, lambda: loss(real, 1.0) + loss(self.generator(z).detach(), 0.0)),
        ):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(losses())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        networks = (self.generator, self.discriminator)
        return [torch.optim.Adam(network.parameters(), 1e-3) for network in networks]


class TwoInputs(nn.Module):
    """Pictures and what they are scaled with."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 4)

    def forward(self, x, scale):
        return self.second(self.first(x) * scale)


class Cascade(Lit):
    """A network that only training_step knows how to call."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.net = (
            TwoInputs(),
            nn.Sequential(conv(4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        )

    def forward(self, *_):
        raise RuntimeError("not for callers")

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(self.front(x, torch.full((len(x), 1, 1, 1), 2.0))), y)


EXAMPLES = {"generator": torch.randn(1, 6), "discriminator": torch.randn(1, 3, 12, 12)}


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("shrink", ["epoch", 3, "end"])
def test_both_networks_of_a_gan_are_pruned(shrink, turn):
    lit = GAN()
    dense = {name: count_flops(lit.get_submodule(name), example) for name, example in EXAMPLES.items()}
    targets = dict(zip(EXAMPLES, (0.5, 0.6), strict=True))
    callbacks = [GDPCallback(t, module=n, shrink=shrink, example=EXAMPLES[n]) for n, t in targets.items()]
    trainer(*callbacks[::turn], epochs=4).fit(lit, loader())
    for callback, (name, target) in zip(callbacks, targets.items(), strict=True):
        assert 0.8 * target <= callback.report.remaining <= target and callback.report.flops_before == dense[name]
        assert callback.report.flops_after == count_flops(lit.get_submodule(name), EXAMPLES[name])
    assert lit.generator(torch.randn(2, 6)).shape == (2, 3, 12, 12) and callbacks[0].pruner is None
    trainer(epochs=1).fit(lit, loader())


def test_no_batch_is_read_for_an_example():
    lit, (x, y) = GAN(), images(16).tensors
    batches = iter([(x + i, y) for i in range(8)])
    trainer(GDPCallback(0.5, module="generator", example=EXAMPLES["generator"]), epochs=1, max_steps=16).fit(
        lit, batches
    )
    assert [int((seen - x).mean().round()) for seen in lit.seen] == list(range(8))


def test_an_example_of_several_inputs():
    lit = Cascade()
    front = GDPCallback(0.5, module="front", example=(torch.randn(1, 3, 12, 12), torch.ones(1, 1, 1, 1)))
    net = GDPCallback(0.5, module="net", example=[torch.randn(1, 4, 12, 12)])
    trainer(front, net, epochs=3).fit(lit, loader())
    assert front.report.remaining <= 0.5 and net.report.remaining <= 0.5


def test_an_example_wins_over_the_example_input_array():
    lit = Lit()
    lit.example_input_array = torch.randn(1, 3, 12, 12)
    dense = count_flops(lit.net, torch.randn(1, 3, 24, 24))
    callback = GDPCallback(0.5, example=torch.randn(1, 3, 24, 24))
    trainer(callback, epochs=2).fit(lit, loader())
    assert callback.report.flops_before == dense


def test_an_example_that_does_not_fit_is_refused_before_training():
    lit = GAN()
    with pytest.raises(GDPError):
        trainer(GDPCallback(0.5, module="generator", example=torch.randn(1, 64)), epochs=2).fit(lit, loader())
    assert not lit.seen and not any("gdp" in name for name in lit.state_dict())


def test_a_config_leaves_the_example_out(tmp_path):
    callbacks = "[{class_path: gdp.GDPCallback, init_args: {target_flops: 0.5, module: net}}]"
    (tmp_path / "config.yaml").write_text(f"trainer: {{max_epochs: 2, callbacks: {callbacks}}}\n")
    cli = LightningCLI(Lit, save_config_callback=None, args=[f"--config={tmp_path}/config.yaml"], run=False)
    (pruning,) = [c for c in cli.trainer.callbacks if isinstance(c, GDPCallback)]
    assert pruning.options.example is None and pruning.options.module == "net"
