"""Annealed gates (DAIS), and the seam through which a kind of gates reaches a run."""

from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import works
from helpers.networks import Residual, randomize
from helpers.training import Data, Lit, loader, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from torch.nn import functional as F
from torchvision.models import resnet18

import gdp
from gdp import Annealed, GDPCallback
from gdp.gates import gate_gradients, indicator

QUICK = Annealed(every=1, pace=2.0, annealing=(0.3, 0.02))  # learns something in a window of twenty steps

# values


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1, 0.02])
def test_indicators_are_sigmoids_exact_at_both_ends_and_rising(temperature):
    assert indicator(torch.tensor([0.0, 1.0]), temperature).tolist() == [0.0, 1.0]
    half = indicator(torch.tensor([0.5]), temperature).item()
    assert half == pytest.approx(0.5 / torch.sigmoid(torch.tensor(1 / temperature)).item(), rel=1e-6)
    x = torch.linspace(0, 1, 10001)
    value = indicator(x, temperature)
    assert value.diff().min() >= 0 and value.min() == 0.0 and value.max() == 1.0
    alpha = 2 * x[1:-1].double() - 1
    expected = torch.sigmoid(alpha / temperature) / torch.sigmoid(torch.tensor(1 / temperature).double())
    torch.testing.assert_close(value[1:-1].double(), expected, rtol=1e-5, atol=1e-7)


def test_settled_gates_are_zero_or_above_one_half():
    raw = Annealed().finalize(torch.tensor([1.0, 0.1, 0.7, 0.0]), torch.tensor([True, True, False, False]), 0.02)
    value = indicator(raw, 0.02)
    assert value[[2, 3]].tolist() == [0.0, 0.0] and value[[0, 1]].min() > 0.5


# what indicators learn


def traced(target=0.5, **options):
    """A network with a shortcut, an input, and a pruner whose gates stand anywhere, in the middle of the window."""
    net = randomize(Residual()).eval()
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pruner = gdp.Pruner(net, gdp.trace(net, x), target, 100, Annealed(**options))
    pruner.steps = 30
    gate_param = 0.2 + 0.6 * torch.rand(len(pruner.gates.gate_param), generator=torch.Generator().manual_seed(1))
    pruner.gates.set(gate_param, temperature=0.5)
    return net, x, pruner


def expected_flops(model, opened):
    """The bilinear FLOPs, differentiable in the sums of gates."""
    n = model.offset.double().index_add(0, model.axis, model.mult * opened[model.group])
    return model.const + (model.coef * n[model.row] * n[model.col]).sum()


def by_autograd(net, x, pruner):
    """The derivative of all terms by alpha, and how far the FLOPs are off, as a fraction of what is allowed."""
    gates, method = pruner.gates, pruner.method
    alpha = (2 * gates.gate_param.double() - 1).requires_grad_()
    value = torch.sigmoid(alpha / gates.temperature) / torch.sigmoid(torch.tensor(1 / gates.temperature).double())
    opened = torch.zeros(len(pruner.cost.sizes), dtype=torch.float64).index_add(0, gates.group_of, value)
    ratio = expected_flops(pruner.cost, opened) / (pruner.allowed * pruner.cost.dense)
    off = ratio.item() - 1
    budget = 0.0 if abs(off) <= method.tolerance else method.budget * (1 if off > 0 else -1)
    values = torch.cat([value.float(), torch.ones(1)])
    weights = {id(r.weight): r.weight.detach() for r in gates.readers}
    for reader in gates.readers:
        shape = [-1 if dim == reader.dim else 1 for dim in range(reader.weight.dim())]
        weights[id(reader.weight)] = weights[id(reader.weight)] * values[reader.index].view(shape)
    gated = {name: weights[id(p)] for name, p in net.named_parameters() if id(p) in weights}
    gates.withdraw()
    loss = torch.func.functional_call(net, gated, (x,)).square().mean()
    return torch.autograd.grad(loss + budget * ratio.log() + method.lasso * value.mean(), alpha)[0], off


CASES = [(0.1, 60, 0.01, 1), (0.9, 10, 0.01, -1), (0.5, 60, 0.9, 0)]


@pytest.mark.parametrize("target, step, tolerance, sign", CASES, ids=["above", "below", "within"])
def test_indicators_learn_from_loss_budget_and_lasso(target, step, tolerance, sign):
    """Against autograd of the sum written out."""
    net, x, pruner = traced(target, budget=3.0, lasso=0.7, tolerance=tolerance)
    pruner.steps = step
    gradient = gate_gradients(pruner.gates, net(x).square().mean())
    method, state, context = pruner.method, pruner.method_state, pruner.context
    by_all, by_rest = (method.alpha_gradient(g, state, context) for g in (gradient, torch.zeros_like(gradient)))
    value, inside = pruner.gates.values, torch.sigmoid((2 * pruner.gates.gate_param - 1) / 0.5)
    budget = by_rest - 0.7 / len(value) * value * (1 - inside) / 0.5
    assert (budget.abs() < 1e-6).all() if sign == 0 else (budget * sign > 1e-4).all()
    expected, off = by_autograd(net, x, pruner)
    assert (off > tolerance) - (off < -tolerance) == sign
    torch.testing.assert_close(by_all.double(), expected, rtol=1e-3, atol=1e-6)
    assert (by_all - by_rest).abs().max() > 1e-3


@pytest.mark.parametrize("target, step, tolerance, sign", CASES, ids=["above", "below", "within"])
def test_a_part_of_the_pressure_is_given_back_by_sensitivity(target, step, tolerance, sign):
    by_rest = {}
    for curvature in (0.0, 0.25):
        _, _, pruner = traced(target, lasso=0.0, tolerance=tolerance, curvature=curvature)
        pruner.steps, zero = step, torch.zeros(len(pruner.gates.gate_param))
        pruner.gates.gate_param[3] = 0.0
        pruner.method_state["sensitivity"] = torch.linspace(0, 1, len(zero))
        slope = torch.sigmoid((1 - 2 * pruner.gates.gate_param) / 0.5) / 0.5
        by_rest[curvature] = pruner.method.alpha_gradient(zero, pruner.method_state, pruner.context) / slope
    given = by_rest[0.0] - by_rest[0.25]
    assert given.sum().item() == pytest.approx(0.25 * by_rest[0.0].sum().item() if sign > 0 else 0.0, rel=1e-4)
    share = torch.linspace(0, 1, len(zero)).index_fill(0, torch.tensor(3), 0.0)
    torch.testing.assert_close(given, given.sum() * share / share.sum(), rtol=1e-3, atol=1e-6)


def test_where_batch_norm_follows_the_loss_moves_no_group_as_a_whole():
    """Why pressure is given back: the gradients by log g of a group sum up to zero."""
    torch.manual_seed(0)
    net, x = resnet18(num_classes=10).train(), torch.randn(8, 3, 64, 64)
    graph = gdp.trace(net, x)
    gates = gdp.insert_gates(net, graph)
    gradient = gate_gradients(gates, F.cross_entropy(net(x), torch.arange(8)))
    off = {}
    for i, group in enumerate(graph.groups):
        of_group = gradient[gates.group_of == i]
        off[group.name] = (of_group.sum().abs() / of_group.abs().sum()).item()
    assert off.pop("layer4.0.conv2") > 0.01  # the stream that the classifier reads, without batch norm
    assert len(off) == 11 and max(off.values()) < 1e-4


def test_a_loss_that_is_not_finite_teaches_nothing_and_closed_gates_stay_closed():
    net, x, pruner = traced()
    pruner.gates.gate_param[3] = 0.0
    pruner.gates.set()
    before = pruner.gates.gate_param.clone()
    pruner.update_held_out(net(x).square().mean() * float("nan"))
    assert torch.equal(pruner.gates.gate_param, before)
    pruner.update_held_out(net(x).square().mean())
    assert pruner.gates.gate_param[3] == 0.0 and not torch.equal(pruner.gates.gate_param, before)
    assert all(p.grad is None for p in net.parameters())


# runs


class Gates(Callback):
    """The gates after every batch."""

    def __init__(self, pruning):
        self.pruning, self.values = pruning, []

    def on_train_batch_end(self, *_):
        self.values.append(self.pruning.pruner.gates.values.clone())


def fit(method, target=0.5, shrink="epoch", **kw):
    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(target, method=method, shrink=shrink)
    gates = Gates(pruning)
    run = trainer(pruning, gates, **({"epochs": 10} | kw))
    run.fit(lit, loader(), loader())
    return lit, pruning, gates.values, pruning.options.method.window(run.global_step).end


RUNS = [
    ("annealed", {}),
    (QUICK, {"target": 0.3}),
    (Annealed(held_out="val"), {}),
    (QUICK, {"shrink": "end"}),
    (QUICK, {"shrink": 3}),
    (QUICK, {"precision": "bf16-mixed"}),
    (QUICK, {"accumulate_grad_batches": 2, "epochs": 20}),
]


@works("Kinds of gates", '`method="annealed"`', "a fifth of the training data is held out for the gates")
@pytest.mark.parametrize(
    "method, kw", RUNS, ids=["usual", "target", "val", "at the end", "steps", "bf16", "accumulated"]
)
def test_a_run_meets_the_target_exactly(method, kw):
    target = kw.get("target", 0.5)
    lit, pruning, values, end = fit(method, **kw)
    report = pruning.report
    assert target - 0.01 <= report.remaining <= target and report.max_rel <= 1e-5
    assert gdp.utils.count_flops(lit.net, torch.zeros(1, 3, 12, 12)) == report.flops_after == report.flops_predicted
    # gates are closed or above one half from the end of the window on, and no group is ever empty
    settled, end = values[-1], end * kw.get("accumulate_grad_batches", 1)
    assert ((settled == 0) | (settled > 0.5)).all() and 0 < (settled == 0).sum() < len(settled)
    assert all(torch.equal(now, settled) for now in values[end:]) and end < len(values)
    assert all((group > 0).any() for now in values for group in now.split([8, 16, 16]))
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())
    assert {type(m).__module__.split(".")[0] for m in lit.modules()} == {"torch", "lit"}


def test_indicators_part_inside_the_window():
    """On the way some are half open, and before the window ends all are on the side on which they will be."""
    _, _, values, end = fit(QUICK, epochs=30)
    before, settled = values[end - 2], values[-1]
    assert any(((v > 0) & (v < 0.5)).any() and (v > 0.9).any() for v in values[: end - 2])
    assert before[settled > 0].min() > 0.5 > before[settled == 0].max()


@works("Kinds of gates", 'resuming with `method="annealed"`', "bit for bit the uninterrupted run")
@pytest.mark.parametrize(
    "method", ["annealed", QUICK, Annealed(held_out="val", every=2)], ids=["usual", "quick", "val"]
)
def test_resumed_equals_uninterrupted(tmp_path, method):
    def run(resume=None):
        pl.seed_everything(0)
        lit, pruning = Lit(), GDPCallback(0.4, method=method)
        save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        run = trainer(pruning, save, epochs=10, enable_checkpointing=True)
        run.fit(lit, loader(), loader(), ckpt_path=resume)
        return lit, pruning.report

    whole, report = run()
    checkpoints = {int(p.stem.split("=")[1]): p for p in tmp_path.glob("epoch=?.ckpt")}
    for epoch in (0, 3, 4, 8):  # where the window opens, inside, and after it
        state = torch.load(checkpoints[epoch], weights_only=True)["callbacks"]
        (saved,) = [found["pruner"] for found in state.values() if found.get("pruner")]
        assert saved["method_state"]["learned"] > 0 and saved["done"] == (epoch == 8)
        again, report_again = run(checkpoints[epoch])
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
        assert report_again.plan == report.plan and report_again.flops_after == report.flops_after


@pytest.mark.parametrize("kinds", [("polar", "annealed"), ("annealed", "polar")], ids="-".join)
def test_a_run_is_not_resumed_with_another_kind(tmp_path, kinds):
    save = ModelCheckpoint(tmp_path, filename="gates")
    trainer(GDPCallback(0.5, method=kinds[0]), save, epochs=3, enable_checkpointing=True).fit(Lit(), loader())
    lit = Lit()
    keys = list(lit.state_dict())
    with pytest.raises(
        gdp.GDPError, match=rf"written with the method {kinds[0].title()}, .*GDPCallback\(method=\.\.\.\)"
    ):
        trainer(GDPCallback(0.5, method=kinds[1]), epochs=6).fit(lit, loader(), ckpt_path=tmp_path / "gates.ckpt")
    assert list(lit.state_dict()) == keys


# what is chosen


@pytest.mark.parametrize(
    "method", ["foo", "Polar", "", 3, None, True, Annealed, {"class_path": "gdp.Annealed"}], ids=str
)
def test_what_is_no_kind_of_gates_is_refused_at_once(method):
    with pytest.raises(gdp.GDPError, match=r"'polar' or 'annealed', or gdp\.Polar\(\.\.\.\), gdp\.Annealed\(\.\.\.\)"):
        GDPCallback(0.5, method=method)


WRONG = [{"held_out": value} for value in (0, 0.0, 1, 1.0, True, -0.1, 1.5, "test", None, float("nan"))]
WRONG += [{"every": 0}, {"every": 1.5}, {"pace": 0}, {"pace": -0.1}, {"pace": float("nan")}]
WRONG += [{"annealing": (0.02, 1.0)}, {"annealing": (1.0, 0.0)}, {"start": 0.6, "end": 0.5}, {"closing": 0}]
WRONG += [{"budget": -1.0}, {"budget": float("nan")}, {"lasso": -1e-3}, {"tolerance": 1.0}, {"tolerance": -0.1}]
WRONG += [{"curvature": value} for value in (-0.5, 1.5, float("nan"))]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_options_that_make_no_sense_are_refused_at_once(options):
    with pytest.raises(gdp.GDPError, match="Expected"):
        Annealed(**options)


@dataclass(frozen=True)
class Lottery(gdp.PruningMethod):
    """A third kind, in a few lines: linear gates, and a worth that is drawn by lot."""

    temperatures = (1.0, 1.0)

    def value(self, gate_param, temperature):
        return gate_param

    def init_state(self, channels):
        return {"luck": torch.rand(channels, generator=torch.Generator().manual_seed(0))}

    def importance(self, state, context):
        return state["luck"]

    def step(self, gate_param, keep_mask, temperature, window):
        step = 1 / window.closing
        down = torch.where(gate_param <= 1.5 * step, 0.0, gate_param - step)
        return torch.where(keep_mask, torch.where(gate_param > 0, gate_param + step, 0.0).clamp_max(1.0), down)

    def finalize(self, gate_param, keep_mask, temperature):
        return torch.where(keep_mask, gate_param.clamp_min(0.6), 0.0)


@works("Kinds of gates", "a kind of one's own", "one subclass of `gdp.PruningMethod`")
def test_another_kind_is_one_small_class():
    _, pruning, trail, _ = fit(Lottery(end=0.7), target=0.4)
    assert 0.39 <= pruning.report.remaining <= 0.4 and pruning.report.max_rel <= 1e-5
    assert any(((values > 0.1) & (values < 0.9)).any() for values in trail)
    luck, start = Lottery().init_state(40)["luck"], 0
    for (_, kept, total), values in zip(pruning.report.groups, trail[-1].split([8, 16, 16]), strict=True):
        mine, start = luck[start : start + total], start + total
        assert set(mine.topk(kept).indices.tolist()) == set(values.nonzero().flatten().tolist())


KINDS = [("annealed", Annealed()), ("polar", gdp.Polar())]
KINDS += [("{class_path: gdp.Annealed, init_args: {held_out: 0.1, every: 2}}", Annealed(held_out=0.1, every=2))]


@pytest.mark.parametrize("written, expected", KINDS, ids=[written for written, _ in KINDS])
def test_a_config_chooses_the_gates(tmp_path, written, expected):
    (tmp_path / "config.yaml").write_text(f"""
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: gdp.GDPCallback
      init_args: {{target_flops: 0.5, method: {written}}}
""")
    options = {"args": [f"--config={tmp_path}/config.yaml"], "run": False, "seed_everything_default": 0}
    cli = LightningCLI(Lit, Data, save_config_callback=None, **options)
    (pruning,) = [c for c in cli.trainer.callbacks if isinstance(c, GDPCallback)]
    assert pruning.options.method == expected and type(pruning.options.method) is type(expected)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert 0.49 <= pruning.report.remaining <= 0.5
