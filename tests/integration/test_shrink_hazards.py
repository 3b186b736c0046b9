"""What stands beside a network that is cut on the way: float64 verdicts, teachers, late averages, interruptions."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers.cuts import assert_same, fit
from helpers.recorders import Sizes
from helpers.training import Lit, images, loader, small_net, trainer
from jsonargparse import ArgumentParser
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gdp
from gdp import GDPCallback
from gdp.surgery import check_optimizers_cuttable, shrink


class Centred(Lit):
    """Outputs are small differences of large numbers, so that float32 can't tell a wrong cut from rounding."""

    def __init__(self) -> None:
        super().__init__()

        class Net(nn.Sequential):
            def forward(self, x):
                out = super().forward(x.flatten(1))
                return out - out.mean(1, keepdim=True)

        self.net = Net(nn.Linear(432, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))
        nn.init.normal_(self.net[4].weight, 1.0, 1e-4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-9, momentum=0.9)


@pytest.mark.parametrize("way", ["epoch", "end"])
def test_float64_decides_while_there_are_gradients(way):
    lit, report, sizes, _ = fit(way, make=Centred, precision="32-true")
    assert 0 < report.max_rel <= 1e-9 and report.remaining <= 0.4  # the difference in float64
    assert (sizes.sizes[-1] < sizes.sizes[0]) == (way == "epoch")
    assert all(p.dtype == torch.float32 for p in lit.parameters())


class Teacher(Callback):
    def __init__(self) -> None:
        self.teacher = Lit().eval().requires_grad_(False)


def test_a_teacher_in_a_callback_is_never_touched():
    with pytest.raises(gdp.GDPError, match=r"'Teacher\.teacher.*' has the same tensors"):
        fit("epoch", Teacher())
    holder = Teacher()
    before = copy.deepcopy(holder.teacher.state_dict())
    fit("end", holder)
    after = holder.teacher.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())


class Snapshots(Callback):
    """Copies of the whole module that are made while it trains."""

    def __init__(self) -> None:
        self.best = None

    def on_train_epoch_end(self, trainer, pl_module):
        self.best = copy.deepcopy(pl_module.net) if trainer.current_epoch == 4 else self.best


def test_a_snapshot_stays_as_it_was_taken():
    holder = Snapshots()
    lit, *_ = fit("epoch", holder)
    taken = holder.best(images().tensors[0].double())
    assert holder.best[0][0].out_channels >= lit.net[0][0].out_channels and taken.isfinite().all()


class Follower(Callback):
    """An average that is the network itself, made at some moment."""

    def __init__(self, moment: str) -> None:
        self.average, self.gaps = None, []
        setattr(self, moment, self.make)

    def make(self, trainer, pl_module, *_):
        if self.average is None and trainer.current_epoch >= 0:
            self.average = AveragedModel(pl_module.net, avg_fn=lambda old, new, n: new)

    def on_train_batch_end(self, trainer, pl_module, *_):
        if self.average is not None:
            self.average.update_parameters(pl_module.net)

    def on_validation_epoch_end(self, trainer, pl_module):
        if self.average is not None and self.average.n_averaged > 0:
            x = images().tensors[0].double()
            self.gaps.append((self.average.eval()(x) - pl_module.net(x)).abs().max().item())


@pytest.mark.parametrize("way", ["end", "epoch", 100])
@pytest.mark.parametrize("moment", ["on_train_start", "on_train_epoch_start"])
def test_an_average_made_late_is_followed(way, moment):
    follower = Follower(moment)
    lit, *_ = fit(way, follower)
    assert len(follower.gaps) >= 9 and max(follower.gaps) < 1e-9
    assert [p.shape for p in follower.average.parameters()] == [p.shape for p in lit.net.parameters()]
    assert not any("gdp" in name for name in follower.average.state_dict())


def test_an_average_made_in_on_fit_start_of_the_module_is_known():
    class Late(Lit):
        def on_fit_start(self):
            self.average = AveragedModel(self.net)

        def on_train_batch_end(self, *_):
            self.average.update_parameters(self.net)

    lit, *_ = fit("epoch", make=Late, module="net")
    assert [p.shape for p in lit.average.parameters()] == [p.shape for p in lit.net.parameters()]


class Box:
    def __init__(self, net) -> None:
        self.net = copy.deepcopy(net)


HOLDERS = {
    "a module around it": lambda net: nn.ModuleDict({"module": copy.deepcopy(net)}),
    "a dict of tensors": lambda net: {k: p.detach().clone() for k, p in net.named_parameters()},
    "a list of tensors": lambda net: [p.detach().clone() for p in net.parameters()],
    "an object": Box,
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS.keys())
@pytest.mark.parametrize("where", ["callback", "module"])
def test_averages_made_by_hand_are_refused_in_every_form(make, where):
    class ByHand(Lit):
        def __init__(self) -> None:
            super().__init__()
            if where == "module":
                self.held = make(self.net)
                for p in getattr(self.held, "parameters", list)():
                    p.requires_grad_(False)

    class Holder(Callback):
        def __init__(self) -> None:
            self.held = make(small_net()) if where == "callback" else None

    with pytest.raises(gdp.GDPError, match=r"held.* has the same tensors as the network that is pruned"):
        fit("epoch", Holder(), make=ByHand, module="net")


def test_an_interrupted_run_is_taken_up_again_and_ends_at_the_target(tmp_path):
    class Interrupt(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 5:
                trainer.should_stop = True
                raise ValueError("interrupted")

    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(0.4)
    with pytest.raises(ValueError, match="interrupted"):
        trainer(pruning, Interrupt(), epochs=10).fit(lit, loader())
    assert lit.net[0][0].out_channels < 8
    with pytest.raises(gdp.GDPError, match="has gates already"):  # another callback knows nothing of the first cuts
        trainer(GDPCallback(0.4), epochs=10).fit(lit, loader())
    with pytest.warns(UserWarning, match="interrupted run has cut this network in part"):
        trainer(pruning, epochs=10).fit(lit, loader())
    dense = gdp.utils.count_flops(Lit().net, torch.zeros(1, 3, 12, 12))
    assert pruning.report.flops_before == dense
    assert 0.39 <= gdp.utils.count_flops(lit.net, torch.zeros(1, 3, 12, 12)) / dense <= 0.4
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    loaded = gdp.load_pruned(small_net(), tmp_path / "small.pt").eval()
    x = images().tensors[0]
    assert torch.equal(loaded(x), lit.net.eval()(x))


def test_an_interrupted_second_run_can_not_be_saved_as_the_first(tmp_path):
    pl.seed_everything(0)
    lit = Lit()
    trainer(GDPCallback(0.6), epochs=4).fit(lit, loader())
    graph = gdp.trace(lit.net, torch.randn(1, 3, 12, 12))
    gates = gdp.insert_gates(lit.net, graph)
    gates.close("0.0", [0])
    shrink(gates)
    with pytest.raises(gdp.GDPError, match="cut further after its report was made"):
        gdp.save_pruned(lit.net, tmp_path / "small.pt")


def test_a_state_from_before_a_cut_is_refused():
    net = small_net()
    pruner = gdp.Pruner(net, gdp.trace(net, torch.randn(1, 3, 12, 12)), 0.5, 20)
    state = pruner.state_dict()
    pruner.gates.close("0.0", [1, 2])
    pruner.shrink()
    with pytest.raises(gdp.GDPError, match="Build the network anew"):
        pruner.load_state_dict(state)
    assert pruner.gates.removed.sum() == 2


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_manual_optimization_in_other_precisions(precision):
    class Manual(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(self(batch[0]), batch[1]))
            optimizer.step()

    assert fit("epoch", make=Manual, epochs=4, precision=precision)[1].remaining <= 0.4


def test_state_that_lies_with_another_parameter_is_found():
    net = small_net()
    gates = gdp.insert_gates(net, gdp.trace(net, torch.randn(1, 3, 12, 12)))
    optimizer = torch.optim.LBFGS([net[-1].bias, *(p for p in net.parameters() if p is not net[-1].bias)], 0.1, 2)

    def closure():
        optimizer.zero_grad()
        loss = net(torch.randn(4, 3, 12, 12)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(gdp.GDPError, match="LBFGS keeps"):
        check_optimizers_cuttable(gates, [optimizer])


@pytest.mark.parametrize("value, expected", [("100", 100), ("epoch", "epoch"), ("end", "end")])
def test_shrink_keeps_its_type_on_a_command_line(value, expected):
    parser = ArgumentParser()
    parser.add_class_arguments(GDPCallback, "gdp")
    found = parser.parse_args(["--gdp.target_flops=0.4", f"--gdp.shrink={value}"]).gdp.shrink
    assert found == expected and type(found) is type(expected)


def test_hooks_of_an_instance_are_there_again_after_two_callbacks():
    class Two(Lit):
        def forward(self, x):
            return self.net(x) + self.other(x)

    lit = Two()
    lit.other = copy.deepcopy(lit.net)
    calls = []
    mine = {name: lambda *a, name=name: calls.append(name) for name in ("configure_model", "on_load_checkpoint")}
    lit.__dict__.update(mine)
    trainer(GDPCallback(0.5, module="net"), GDPCallback(0.7, module="other"), epochs=2).fit(lit, loader())
    assert calls == ["configure_model"] and all(lit.__dict__[name] is hook for name, hook in mine.items())


def test_the_reference_of_these_tests_is_what_they_think():
    assert_same(fit("end", Sizes()), fit("end"))
