"""torch.compile around the network, in place, around a part of it, and around the LightningModule."""

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import works
from helpers.training import Lit, loader, small_net, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn

import gdp
from gdp import GDPCallback

pytestmark = pytest.mark.slow


AREA = "torch.compile"
X = torch.randn(4, 3, 12, 12)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Around(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="aot_eager")


class InPlace(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net.compile(backend="aot_eager")


class Part(Lit):
    def __init__(self) -> None:
        super().__init__()
        body = torch.compile(self.net[:3], backend="aot_eager")
        self.net = nn.Sequential(body, *self.net[3:])


class Plain(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(self.net[:3], *self.net[3:])


def whole():
    return torch.compile(Lit(), backend="aot_eager")


FORMS = [
    pytest.param(Around, Lit, marks=works(AREA, "a network wrapped by `torch.compile`")),
    pytest.param(InPlace, Lit, marks=works(AREA, "`network.compile()`")),
    pytest.param(Part, Plain, marks=works(AREA, "a compiled part of the network")),
    pytest.param(whole, Lit, marks=works(AREA, "`trainer.fit(torch.compile(module))`")),
]


@pytest.mark.parametrize("way", ["epoch", "end"])
@pytest.mark.parametrize("make, plain", FORMS)
def test_compiled_networks(make, plain, way, tmp_path):
    pl.seed_everything(0)
    model, pruning = make(), GDPCallback(0.5, shrink=way)
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(pruning, save, epochs=6, enable_checkpointing=True, limit_val_batches=0).fit(model, loader())
    report, lit = pruning.report, getattr(model, "_orig_mod", model)
    assert 0.49 <= report.remaining <= 0.5
    for text in (str(report), str(report.plan.to_dict()), str(report.to_dict())):
        assert "_orig_mod" not in text
    expected = lit.eval().net(X)
    gdp.save_pruned(lit, tmp_path / "small.pt")
    assert "_orig_mod" not in str(list(torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]))
    for fresh in (plain(), getattr(make(), "_orig_mod", None) or make()):  # compiled or not, files and checkpoints fit
        torch.testing.assert_close(gdp.load_pruned(fresh, tmp_path / "small.pt").eval().net(X), expected)
    for fresh in (plain(), getattr(make(), "_orig_mod", None) or make()):
        loaded = gdp.load_checkpoint(fresh, tmp_path / "epoch=5.ckpt")
        torch.testing.assert_close(loaded.eval().net(X), expected, rtol=1e-5, atol=1e-5)


@works(AREA, "resuming a compiled run without compiling, and the other way round")
@pytest.mark.parametrize("first, second", [(Around, Lit), (Lit, Around), (Part, Plain)])
def test_a_run_is_resumed_compiled_or_not(first, second, tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(GDPCallback(0.5), save, epochs=6, enable_checkpointing=True).fit(first(), loader())
    pruning = GDPCallback(0.5)
    trainer(pruning, epochs=6).fit(second(), loader(), ckpt_path=tmp_path / "epoch=2.ckpt")
    assert 0.49 <= pruning.report.remaining <= 0.5


@works(AREA, "gates that move", "no recompilation per step: one when gates begin to act, one per cut")
@pytest.mark.parametrize("make", [Around, InPlace, Part, whole])
def test_nothing_is_compiled_anew_while_gates_move(make):
    class Compiled(Callback):
        def __init__(self) -> None:
            self.at = []

        def on_train_batch_end(self, *_):
            self.at.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    seen, pruning = Compiled(), GDPCallback(0.5, shrink="end")
    torch._dynamo.utils.counters.clear()
    trainer(pruning, seen, epochs=20, limit_val_batches=0).fit(make(), loader())
    assert seen.at[0] > 0  # something is compiled at all
    steps = [i for i in range(1, 80) if seen.at[i] != seen.at[i - 1]]
    assert len(steps) <= 1 and all(i == 7 or i == 8 for i in steps)


@works(AREA, "the default backend (inductor)")
def test_inductor():
    class Inductor(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(small_net())

    lit, pruning = Inductor(), GDPCallback(0.5, shrink="end")
    trainer(pruning, epochs=3, limit_val_batches=0).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
    torch.testing.assert_close(lit.eval().net(X), lit.net._orig_mod(X), rtol=1e-4, atol=1e-4)


def test_a_compiled_child_is_found_and_pruned():
    class Compiled(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    lit, pruning = Compiled(), gdp.GDPCallback(target_flops=0.5)
    trainer(pruning, epochs=2).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
    assert not any("_orig_mod" in name for name in pruning.report.plan.keep)
