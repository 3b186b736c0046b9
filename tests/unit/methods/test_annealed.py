"""Annealed gates (DAIS), and the way a method reaches a run."""

import pytest
import torch
from helpers.contexts import at
from helpers.networks import Residual, randomize
from helpers.training import Lit, loader
from torch.nn import functional as F
from torchvision.models import resnet18

import gdp
from gdp import Annealed
from gdp.gates import gate_gradients, indicator

QUICK = Annealed(every=1, pace=2.0)

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


def test_finalized_gates_are_zero_or_above_one_half():
    raw = Annealed().finalize({}, at([1.0, 0.1, 0.7, 0.0], [True, True, False, False], 0.02))
    value = indicator(raw, 0.02)
    assert value[[2, 3]].tolist() == [0.0, 0.0] and value[[0, 1]].min() > 0.5


# what indicators learn


def traced(target=0.5, **options):
    """A network with a shortcut, an input, and a pruner whose gates stand anywhere, in the middle of the window."""
    net = randomize(Residual()).eval()
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pruner = gdp.Pruner(net, gdp.trace(net, x, dry_run=False), target, 100, Annealed(**options))
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
    opened = torch.zeros(len(pruner.budget.cost.sizes), dtype=torch.float64).index_add(0, gates.group_of, value)
    ratio = expected_flops(pruner.budget.cost, opened) / (pruner.allowed * pruner.budget.cost.dense)
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
    graph = gdp.trace(net, x, dry_run=False)
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
    pruner.learn(net(x).square().mean() * float("nan"))
    assert torch.equal(pruner.gates.gate_param, before)
    pruner.learn(net(x).square().mean())
    assert pruner.gates.gate_param[3] == 0.0 and not torch.equal(pruner.gates.gate_param, before)
    assert all(p.grad is None for p in net.parameters())


def test_the_squared_gradients_are_remembered_as_polar_gates_do():
    method = Annealed()
    state = method.init_state(2)
    for gradient in ([2.0, -4.0], [0.0, 2.0], [10.0, 0.0]):
        state = method.update(state, torch.tensor(gradient), None)
    # 0.95 * (0.95 * 0.05 * 4 + 0) + 0.05 * 100, and 0.95 * (0.95 * 0.05 * 16 + 0.05 * 4) + 0
    torch.testing.assert_close(state["sensitivity"], torch.tensor([5.1805, 0.912]))


# options


WRONG = [{"held_out": value} for value in (0, 0.0, 1, 1.0, True, -0.1, 1.5, "test", None, float("nan"))]
WRONG += [{"every": 0}, {"every": 1.5}, {"pace": 0}, {"pace": -0.1}, {"pace": float("nan")}]
WRONG += [{"annealing": (0.02, 1.0)}, {"annealing": (1.0, 0.0)}, {"start": 0.6, "end": 0.5}, {"closing": 0}]
WRONG += [{"budget": -1.0}, {"budget": float("nan")}, {"lasso": -1e-3}, {"tolerance": 1.0}, {"tolerance": -0.1}]
WRONG += [{"curvature": value} for value in (-0.5, 1.5, float("nan"))]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_options_that_make_no_sense_are_refused_at_once(options):
    with pytest.raises(gdp.GDPError, match="Expected"):
        Annealed(**options)


def test_a_loss_without_a_gradient_is_refused():
    net = Lit().net
    pruner = gdp.Pruner(net, gdp.trace(net, torch.zeros(2, 3, 12, 12), dry_run=False), 0.5, 20, QUICK)
    with pytest.raises(gdp.GDPError, match="no gradient in any gated weight"):
        pruner.learn(torch.zeros(()))


def test_indicators_that_have_learned_nothing_leave_it_to_the_gradient():
    """Without any lesson all indicators are alike; then what matters least to the loss goes, not the first channels."""
    torch.manual_seed(0)
    net, (x, y) = Lit().net, next(iter(loader()))
    pruner = gdp.Pruner(net, gdp.trace(net, x, dry_run=False), 0.5, 20, QUICK)
    for _ in range(4):
        torch.nn.functional.cross_entropy(net(x), y).backward()
        pruner.watch()
        pruner.step()
    pruner.finish()
    seen, keep = pruner.method_state["sensitivity"], pruner.gates.gate_param > 0
    for span in pruner.gates.spans.values():
        if not keep[span].all():
            assert seen[span][keep[span]].min() >= seen[span][~keep[span]].max()
