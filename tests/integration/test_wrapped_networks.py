"""Networks in wrappers and under two names, in a LightningModule: files and checkpoints fit every form of it."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from helpers.beside import assert_equal
from helpers.training import Lit, X, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.parallel import DataParallel

import gdp
from gdp import GDPCallback
from gdp.lightning.network import find_network


class Parallel(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net = DataParallel(self.net)


class ParallelAndCompiled(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(DataParallel(self.net), backend="eager")


class ParallelPart(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net[0] = DataParallel(self.net[0])


class Twice(Lit):
    """The network under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.net


class CompiledBeside(Lit):
    """The network, and what torch.compile makes of it, which computes."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = torch.compile(self.net, backend="eager")

    def forward(self, x):
        return self.fast(x)


class CompiledBefore(CompiledBeside):
    def __init__(self) -> None:
        super().__init__()
        net = self.net
        del self.net
        self.net = net


class PartBeside(Lit):
    """A part of the network under a name of its own, which comes first."""

    def __init__(self) -> None:
        super().__init__()
        net = self.net
        del self.net
        self.stem, self.net = net[0], net


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def fit(lit, folder, resume=None, module=None, **kw):
    pl.seed_everything(0)
    pruning, save = GDPCallback(0.5, module=module, **kw), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer(pruning, save, epochs=4, enable_checkpointing=True).fit(lit, loader(), ckpt_path=resume)
    assert 0.49 <= pruning.report.remaining <= 0.5
    return pruning.report


@pytest.mark.parametrize("way", ["epoch", "end"])
@pytest.mark.parametrize("make", [Parallel, ParallelAndCompiled, ParallelPart])
def test_files_and_checkpoints_of_wrapped_networks_fit_the_plain_one(make, way, tmp_path):
    pl.seed_everything(1)
    lit = make()
    report = fit(lit, tmp_path, shrink=way)
    assert not any("module" in name or "_orig_mod" in name for name in report.plan.shapes)
    gdp.save_pruned(lit, tmp_path / "lit.pt")
    gdp.save_pruned(lit.net, tmp_path / "net.pt")
    expected = outputs(lit)
    torch.testing.assert_close(gdp.load_pruned(small_net(), tmp_path / "net.pt").eval()(X), expected)
    for form in (Lit, Parallel, ParallelPart):
        torch.testing.assert_close(outputs(gdp.load_pruned(form(), tmp_path / "lit.pt")), expected)
        for epoch in range(4):
            loaded = gdp.load_checkpoint(form(), tmp_path / f"epoch={epoch}.ckpt")
            assert not any("gdp" in name for name in loaded.state_dict())
        torch.testing.assert_close(outputs(loaded), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first, second", [(Parallel, Lit), (Lit, Parallel), (ParallelPart, Parallel)])
def test_a_run_is_resumed_wrapped_or_not(first, second, tmp_path):
    pl.seed_everything(1)
    once = first()
    fit(once, tmp_path)
    again = second()
    fit(again, tmp_path / "again", tmp_path / "epoch=1.ckpt")
    torch.testing.assert_close(outputs(again), outputs(once))
    trainer(GDPCallback(0.5)).test(Tested(second), loader(), ckpt_path=tmp_path / "epoch=3.ckpt")


class Tested(pl.LightningModule):
    """A module that is tested, with the network of another one."""

    def __init__(self, make) -> None:
        super().__init__()
        self.net = make().net

    def forward(self, x):
        return self.net(x)

    def test_step(self, batch, batch_idx):
        assert sum(p.numel() for p in self.net.parameters()) < sum(p.numel() for p in small_net().parameters())
        self(batch[0])


NAMES = [(Twice, None), (Twice, "net"), (Twice, "backbone"), (CompiledBeside, None), (CompiledBeside, "fast")]
NAMES += [(CompiledBefore, None), (CompiledBefore, "net"), (PartBeside, "net")]


@pytest.mark.parametrize("way", ["epoch", "end"])
@pytest.mark.parametrize("make, module", NAMES)
def test_a_network_under_two_names(make, module, way, tmp_path):
    pl.seed_everything(1)
    lit, plain = make(), Lit()
    plain.load_state_dict(lit.state_dict(), strict=False)
    fit(plain, tmp_path / "plain", shrink=way)
    fit(lit, tmp_path, module=module, shrink=way)
    torch.testing.assert_close(outputs(lit), outputs(plain))
    gdp.save_pruned(lit, tmp_path / "lit.pt")
    gdp.save_pruned(lit.net, tmp_path / "net.pt")
    assert_equal(gdp.load_pruned(make(), tmp_path / "lit.pt"), lit)
    assert_equal(gdp.load_pruned(small_net(), tmp_path / "net.pt"), lit.net)
    for epoch in range(4):
        loaded = gdp.load_checkpoint(make(), tmp_path / f"epoch={epoch}.ckpt")
    torch.testing.assert_close(outputs(loaded), outputs(lit), rtol=1e-5, atol=1e-5)
    again = make()
    fit(again, tmp_path / "again", tmp_path / "epoch=1.ckpt", module, shrink=way)
    torch.testing.assert_close(outputs(again), outputs(lit))


def test_names_are_found_through_wrappers():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = DataParallel(
                nn.ModuleDict({"module": nn.Conv2d(3, 3, 1), "b": torch.compile(nn.Conv2d(3, 3, 1))})
            )
            self.other = nn.Conv2d(3, 3, 1)

    two = Two()
    inside = two.net.module
    assert find_network(two, "net") == find_network(two, "net.module") == ("net", inside)
    assert find_network(two, "net.module.module") == ("net.module", inside["module"])
    assert find_network(two, "net.b") == find_network(two, "b") == ("net.b", inside["b"]._orig_mod)
    assert find_network(two, "net.module.b._orig_mod") == ("net.b", inside["b"]._orig_mod)


def test_data_parallel_on_several_devices_is_refused_before_training():
    lit = Parallel()
    lit.net.device_ids = [0, 1]
    with pytest.raises(gdp.GDPError, match="net is in DataParallel on 2 devices"):
        trainer(GDPCallback(0.5), epochs=2).fit(lit, loader())
    assert not any("gdp" in name for name in lit.state_dict())
    beside = Lit()
    beside.teacher = lit.net.requires_grad_(False)  # which is not pruned
    trainer(GDPCallback(0.5, module="net", shrink="end"), epochs=2).fit(beside, loader())
