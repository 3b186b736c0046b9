"""What can go wrong when training is over loses nothing: the network stays as it was trained, and says why."""

import copy
import re

import pytest
import torch
from helpers.features import works
from helpers.training import Lit, LitWithAverage, loader, outputs, small_net, trainer, two_processes
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import gdp
from gdp import GDPCallback
from gdp.utils import count_flops

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))


class Fragile(nn.Sequential):
    """Raises something once training is over."""

    over = False
    calls = 0

    def forward(self, x):
        y = super().forward(x)
        if self.over:
            self.fail(x)
        return y

    def fail(self, x): ...


class Literal(Fragile):
    """A size that is written down."""

    def fail(self, x):
        self[0](x).view(len(x), 8, 12, 12)


class CountsCalls(Fragile):
    """One call too many."""

    def fail(self, x):
        type(self).calls += 1  # not in the network, where gdp would put it back
        if self.calls > 4:
            raise LookupError("no tickets left")


class TooLarge(Fragile):
    """The example input no longer fits into memory, not even before the cut."""

    def fail(self, x):
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")


class LooksAtData(Fragile):
    """Data-dependent."""

    def fail(self, x):
        if self[1](self[0](x)).mean() > -1:
            raise ValueError("not that input")


class Untraceable(Fragile):
    """torch.jit.trace, and so fvcore, can't follow any more."""

    def fail(self, x):
        if torch.jit.is_tracing():
            raise TypeError("not to be traced")


class Over(Callback):
    """Tell the network that training is over, and note what it computes then."""

    def on_train_end(self, trainer, pl_module):
        self.expected = outputs(pl_module, X)
        pl_module.net.over = True


def fragile(make: type[Fragile], lit: Lit | None = None) -> Lit:
    lit = lit or Lit()
    lit.net = make(*lit.net)
    return lit


def fit(lit, pruning, *callbacks, epochs: int = 6, **kw):
    over, type(lit.net).calls = Over(), 0
    run = trainer(pruning, over, *callbacks, epochs=epochs, **kw)
    with pytest.warns(UserWarning, match="no channel was cut when training was over.*remove_zeros"):
        run.fit(lit, loader(), loader())
    lit.net.over = False
    return run, over.expected


def is_plain(module: nn.Module) -> bool:
    """Whether nothing of gdp is left in a network."""
    named = [*module.state_dict(), *(type(m).__module__ for m in module.modules())]
    return not any("gdp" in name for name in named)


@works(
    "Failures",
    "a cut that fails when training is over",
    "the network stays as trained, without gates; `report.failure` says why",
)
@pytest.mark.parametrize("shrink", ["epoch", "end"])
@pytest.mark.parametrize(
    "make, reason",
    [
        (Literal, "12, 12.* is invalid for input of size"),
        (CountsCalls, "no tickets left"),
        (TooLarge, "80 GiB"),
        (LooksAtData, "not that input"),
        (Untraceable, "not to be traced"),
    ],
)
def test_nothing_is_lost_when_the_removal_fails(make, reason, shrink):
    lit, pruning = fragile(make), GDPCallback(0.4, shrink=shrink)
    run, expected = fit(lit, pruning)
    report = pruning.report
    assert run.state.finished and is_plain(lit) and pruning.pruner is None
    torch.testing.assert_close(outputs(lit, X), expected, rtol=1e-5, atol=1e-6)

    # the report says what is, and why
    text = " ".join(str(report).split())
    assert text.startswith("gdp: not cut when training was over.") and "gdp.remove_zeros" in report.failure
    assert re.search(reason, report.failure), report.failure
    assert report.flops_after == report.flops_predicted == count_flops(lit.net, X[:1])
    assert report.params_after == sum(p.numel() for p in lit.net.parameters()) <= report.params_before
    assert all(lit.net.get_submodule(name).out_channels == kept for name, kept, _ in report.groups)
    assert (report.remaining == 1.0) is (shrink == "end")

    # the way out
    small = gdp.remove_zeros(lit.net, X[:1])
    torch.testing.assert_close(outputs(lit, X), expected, rtol=1e-5, atol=1e-5)
    assert small.flops_after <= 0.4 * report.flops_before and small.failure is None


def test_where_fvcore_fails_as_well_the_report_counts_by_itself():
    lit, pruning = fragile(Untraceable), GDPCallback(0.4)
    fit(lit, pruning)
    assert "Its FLOPs are those that gdp predicts" in pruning.report.failure
    assert pruning.report.flops_after == count_flops(lit.net, X[:1])


@pytest.mark.parametrize("shrink", ["epoch", "end"])
def test_what_comes_after_still_works(tmp_path, shrink):
    lit, pruning = fragile(Literal), GDPCallback(0.4, shrink=shrink)
    run, _ = fit(lit, pruning)

    # files of the network
    gdp.save_pruned(lit.net, tmp_path / "net.pt")
    loaded = gdp.load_pruned(Literal(*small_net()), tmp_path / "net.pt")
    assert torch.equal(loaded.eval()(X), outputs(lit, X))
    run.save_checkpoint(tmp_path / "after.ckpt")
    fresh = gdp.load_checkpoint(fragile(Literal), tmp_path / "after.ckpt")
    assert torch.equal(outputs(fresh, X), outputs(lit, X))
    gdp.save_pruned(fresh, tmp_path / "again.pt")
    assert gdp.report.report_of(fresh.net).failure == pruning.report.failure

    # the same callback prunes it again
    again = trainer(pruning, epochs=6)
    with pytest.warns(UserWarning, match="the last run could not cut this network; pruning begins anew"):
        again.fit(lit, loader())
    assert pruning.report.failure is None and 0.38 <= pruning.report.remaining <= 0.4


class Tests(Lit):
    def test_step(self, batch, batch_idx):
        self.log("test", (self(batch[0]).argmax(1) == batch[1]).float().mean())


def test_the_best_checkpoint_can_be_tested_where_it_has_the_same_shapes(tmp_path):
    lit, pruning = fragile(Literal, Tests()), GDPCallback(0.4, shrink="end")
    best = ModelCheckpoint(tmp_path, monitor="val", mode="max", save_last=True)
    run, _ = fit(lit, pruning, best, enable_checkpointing=True)
    copied = copy.deepcopy(lit)
    (found,) = run.test(lit, loader(), ckpt_path=best.best_model_path, verbose=False)
    assert found["test"] == best.best_model_score and is_plain(lit)
    run.test(copied, loader(), ckpt_path=best.last_model_path, verbose=False)


def test_a_checkpoint_of_other_shapes_is_refused_in_a_sentence(tmp_path):
    lit, pruning = fragile(Literal, Tests()), GDPCallback(0.4)
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run, expected = fit(lit, pruning, saved, enable_checkpointing=True)
    with pytest.raises(gdp.GDPError, match="was written before the channels were cut"):
        run.test(lit, loader(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    torch.testing.assert_close(outputs(lit, X), expected, rtol=1e-5, atol=1e-6)


def test_copies_become_plain_as_well():
    lit, pruning = fragile(Literal, LitWithAverage()), GDPCallback(0.4, module="net")
    fit(lit, pruning)
    assert is_plain(lit)
    assert [p.shape for p in lit.mean.module.parameters()] == [p.shape for p in lit.net.parameters()]


def test_ctrl_c_in_the_removal_comes_through_and_leaves_the_network_gated():
    class Interrupted(Fragile):
        def fail(self, x):
            type(self).calls += 1
            if self.calls == 4:  # the second pass of the network that is cut on trial
                raise KeyboardInterrupt

    lit, pruning, over = fragile(Interrupted), GDPCallback(0.4), Over()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(pruning, over, epochs=6).fit(lit, loader())
    lit.net.over = False
    torch.testing.assert_close(outputs(lit, X), over.expected, rtol=0, atol=0)
    pruner = pruning.pruner
    report = gdp.remove(lit.net, pruner.graph, pruner.gates)
    assert 0.38 <= report.remaining <= 0.4


class Float32Table(nn.Sequential):
    """A positional table that is no buffer: float64 can't be asked."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.table = torch.eye(4)

    def forward(self, x):
        return super().forward(x) @ self.table


class CastsInside(nn.Sequential):
    """Halfway, everything is float32."""

    def forward(self, x):
        for i, layer in enumerate(self):
            x = layer(x.float() if i == 1 else x)
        return x


@works("Bad input", "a `forward` that insists on float32", "a tolerable difference decides, before and after training")
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("make", [Float32Table, CastsInside])
def test_forward_may_insist_on_float32(make, broken):
    class Breaks(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if broken and self.global_step >= 18 else loss

    lit, pruning = Breaks(), GDPCallback(0.4)
    lit.net = make(*lit.net)
    trainer(pruning, epochs=8).fit(lit, loader())
    assert pruning.report.failure is None and 0.38 <= pruning.report.remaining <= 0.4
    assert bool(lit.net[0][0].weight.isnan().any()) is broken


def test_a_network_that_other_code_has_cut_already_is_left_as_it_is():
    class Cuts(Callback):
        def on_train_end(self, trainer, pl_module):
            pruner = pruning.pruner
            pruner.finish()
            self.report = gdp.remove(pl_module.net, pruner.graph, pruner.gates)

    lit, pruning, cuts = Lit(), GDPCallback(0.4), Cuts()
    with pytest.warns(UserWarning, match="other code has taken the gates out"):
        trainer(pruning, cuts, epochs=6).fit(lit, loader())
    assert pruning.report is cuts.report and pruning.pruner is None and is_plain(lit)


def test_gates_that_can_not_be_taken_out_stay_and_act():
    class Bakes(Callback):
        def on_train_end(self, trainer, pl_module):
            self.expected = outputs(pl_module, X)
            layer = pl_module.net[1][0]
            self.weight = layer._parameters.pop("weight")

        def teardown(self, trainer, pl_module, stage):
            pl_module.net[1][0]._parameters["weight"] = self.weight

    lit, pruning, bakes = Lit(), GDPCallback(0.4), Bakes()
    with pytest.warns(UserWarning, match=r"no channel was cut.*can't be folded into its weights either.*so they stay"):
        trainer(pruning, bakes, epochs=6).fit(lit, loader())
    assert torch.equal(outputs(lit, X), bakes.expected) and pruning.report is None
    report = gdp.remove(lit.net, pruning.pruner.graph, pruning.pruner.gates)
    assert 0.38 <= report.remaining <= 0.4


@pytest.mark.slow
def test_two_processes_stay_alike_where_one_can_not_cut(tmp_path):
    first, second = two_processes("ddp_failing_script.py", tmp_path)
    assert first["weights"] == second["weights"] and first["shapes"] == second["shapes"]
    assert "no tickets" in second["failure"] and "another process" in first["failure"]
