"""DAIS by its own terms: its temperature, its budget, and nothing that is our own in what indicators learn."""

import pytest
import torch
from helpers.contexts import at
from helpers.networks import Residual, randomize

import gdp
from gdp.gates import gate_gradients, indicator
from gdp.methods import DAIS, Annealed


def traced(**options):
    """A network with a shortcut, an input, and a pruner whose gates stand anywhere, early in the window."""
    net = randomize(Residual()).eval()
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pruner = gdp.Pruner(net, gdp.trace(net, x, dry_run=False), 0.3, 100, DAIS(**options))
    pruner.steps = 12
    gate_param = 0.4 + 0.5 * torch.rand(len(pruner.gates.gate_param), generator=torch.Generator().manual_seed(1))
    pruner.gates.set(gate_param, temperature=0.5)
    return net, x, pruner


@pytest.mark.parametrize("progress, temperature", [(0.0, 1.0), (0.5, 1 / 25.5), (1.0, 0.02), (-1.0, 1.0), (2.0, 0.02)])
def test_the_inverse_of_the_temperature_grows_linearly(progress, temperature):
    assert DAIS().temperature(progress) == pytest.approx(temperature, rel=1e-12)
    assert DAIS(annealing=(0.5, 0.1)).temperature(0.25) == pytest.approx(0.5 / 2.0)


def test_the_defaults_are_those_of_the_paper_and_not_ours():
    method = gdp.methods.get("dais")()
    assert (method.learns_from.source, method.curvature, method.annealing) == (0.3, 0.0, (1.0, 0.02))
    assert method.budget < Annealed().budget


def test_the_budget_is_the_target_from_the_beginning_on():
    """Early in the window all channels are allowed; the FLOPs are below that, and above the target."""
    _, _, pruner = traced(lasso=0.0)
    zero = torch.zeros(len(pruner.gates.gate_param))
    of_dais = pruner.method.alpha_gradient(zero, pruner.method_state, pruner.context)
    of_ours = Annealed(lasso=0.0, curvature=0.0).alpha_gradient(zero, pruner.method_state, pruner.context)
    assert pruner.context.target == 0.3 < pruner.context.allowed
    assert (of_dais > 0).all() and (of_ours < 0).all()


def test_indicators_learn_from_loss_budget_and_lasso_alone():
    """Against autograd of `L + 3 log(E / B) + 0.7 mean(I)`, written out."""
    net, x, pruner = traced(budget=3.0, lasso=0.7)
    pruner.method_state["sensitivity"] += 1.0  # would give pressure back
    gates, cost = pruner.gates, pruner.budget.cost
    gradient = gate_gradients(gates, net(x).square().mean())
    found = pruner.method.alpha_gradient(gradient, pruner.method_state, pruner.context)

    alpha = (2 * gates.gate_param.double() - 1).requires_grad_()
    value = torch.sigmoid(alpha / 0.5) / torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    opened = torch.zeros(len(cost.sizes), dtype=torch.float64).index_add(0, gates.group_of, value)
    n = cost.offset.double().index_add(0, cost.axis, cost.mult * opened[cost.group])
    flops = cost.const + (cost.coef * n[cost.row] * n[cost.col]).sum()
    rest = 3.0 * (flops / (0.3 * cost.dense)).log() + 0.7 * value.mean()
    loss = (gradient.double() / value.detach() * value).sum()  # has the gradient of the loss, checked for Annealed
    assert flops > 0.31 * cost.dense
    torch.testing.assert_close(found.double(), torch.autograd.grad(loss + rest, alpha)[0], rtol=1e-4, atol=1e-7)


def test_gates_do_not_move_to_their_side_at_the_end_and_low_ones_close():
    low = 0.5 * (1 + 0.02 * torch.logit(torch.tensor(0.005)).item())
    x = DAIS().step({}, at([1.0, 0.49, low, low, 0.0], [True, False, False, True, False], 0.02, steps=29))
    torch.testing.assert_close(x, torch.tensor([1.0, 0.49, 0.0, low, 0.0]))
    assert indicator(torch.tensor(low), 0.02) < 0.01 < indicator(torch.tensor(0.49), 0.02)


@pytest.mark.parametrize("options", [{"held_out": 1.0}, {"annealing": (0.02, 1.0)}, {"curvature": 2.0}], ids=str)
def test_options_that_make_no_sense_are_refused_at_once(options):
    with pytest.raises(gdp.GDPError, match="Expected"):
        DAIS(**options)
