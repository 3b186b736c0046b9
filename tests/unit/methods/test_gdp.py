"""GDP by its own terms: what gates descend, the multiplier that the budget solves for, zeros and the guard."""

from dataclasses import replace

import pytest
import torch
from helpers.contexts import at, of_network
from helpers.networks import Residual, randomize
from torch.nn import functional as F

import gdp
from gdp.gates import gate_gradients, polar_gate
from gdp.methods import GDP
from gdp.methods.gdp_literal import FASTEST
from gdp.methods.soft_flops import soft_flops, solve_multiplier, x_gradients, x_of

INPUT = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def midway(allowed=0.5, low=0.2, **options):
    """A network with a shortcut, and where its run is: gates stand anywhere, eps is 0.1."""
    net = randomize(Residual()).eval()
    context = of_network(net, INPUT, allowed=allowed, **options)
    channels = len(context.gate_param)
    context.gates.set(low + (1 - low) * torch.rand(channels, generator=torch.Generator().manual_seed(1)), 0.1)
    return net, context


def remembered(method, context, squares=1.0):
    state = method.init_state(len(context.gate_param))
    return state | {"sensitivity": torch.zeros_like(state["sensitivity"]) + squares}


def written_out(net, context, x):
    """Loss and fraction of the FLOPs as functions of x, differentiable."""
    value, gates, cost = (1 + 0.1) * x * x / (x * x + 0.1), context.gates, context.cost
    sums = torch.zeros(len(cost.sizes), dtype=x.dtype).index_add(0, gates.group_of, value)
    n = cost.offset.to(x.dtype).index_add(0, cost.axis, cost.mult * sums[cost.group])
    flops = cost.const + (cost.coef * n[cost.row] * n[cost.col]).sum()
    values, weights = (
        torch.cat([value.float(), torch.ones(1)]),
        {id(r.weight): r.weight.detach() for r in gates.readers},
    )
    for reader in gates.readers:
        shape = [-1 if dim == reader.dim else 1 for dim in range(reader.weight.dim())]
        weights[id(reader.weight)] = weights[id(reader.weight)] * values[reader.index].view(shape)
    gated = {name: weights[id(p)] for name, p in net.named_parameters() if id(p) in weights}
    gates.withdraw()
    return torch.func.functional_call(net, gated, (INPUT,)).square().mean(), flops / cost.dense


def test_gates_descend_the_gradient_of_loss_and_flops():
    """Against autograd of both written out."""
    net, context = midway()
    x = context.gate_param.double()
    gradient = gate_gradients(context.gates, net(INPUT).square().mean()).double()
    by_loss, by_flops = x_gradients(x, gradient, context)
    soft = soft_flops(x, context)
    leaf = x.clone().requires_grad_()
    loss, flops = written_out(net, context, leaf)
    assert soft == pytest.approx(flops.item(), rel=1e-12)
    torch.testing.assert_close(by_flops, torch.autograd.grad(flops, leaf, retain_graph=True)[0], rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(by_loss, expected, rtol=1e-3, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_a_step_is_what_it_is_by_hand():
    """Nothing is over the budget, so only the loss moves x: by rate / root of the mean square, over squares / mean."""
    _, context = midway(allowed=1.0)
    method, x = GDP(rate=0.02), context.gate_param.clone()
    squares = torch.linspace(0.5, 1.5, len(x))
    gradient = torch.full_like(x, 0.3).index_fill(0, torch.tensor([1, 4]), -0.3)
    state, found = method.learn(remembered(method, context, squares), gradient, context)
    slope = 0.2 / (x * (x * x + 0.1))
    expected = x - 0.02 * slope * gradient / (squares + 1e-3)
    torch.testing.assert_close(found, torch.minimum(expected, torch.ones(())))
    assert state["multiplier"] == 0.0 and (found[[1, 4]] > x[[1, 4]]).all() and (found != x).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_power_says_how_steps_depend_on_the_squared_gradient(power):
    _, context = midway(allowed=1.0)
    method, x = GDP(power=power, rate=1e-3), context.gate_param.clone()
    squares = torch.ones_like(x).index_fill(0, torch.tensor([0]), 9.0)
    _, found = method.learn(remembered(method, context, squares), torch.ones_like(x), context)
    step = (x - found) * x * (x * x + 0.1)
    assert (step[1] / step[0]).item() == pytest.approx(9.0**power, rel=1e-2)


@pytest.mark.parametrize("fall", [0.003, 0.01, 0.03])
def test_the_multiplier_is_solved_for_such_that_the_moved_gates_cost_what_is_allowed(fall):
    _, context = midway(keep_mask=torch.zeros(24, dtype=torch.bool))
    context = replace(context, allowed=soft_flops(context.gate_param.double(), context) - fall)
    method = GDP()
    gradient = torch.randn(24, generator=torch.Generator().manual_seed(2))
    state, found = method.learn(remembered(method, context), gradient, context)
    after = soft_flops(found.double(), context)
    assert state["multiplier"] > 0 and context.allowed - 1e-4 <= after <= context.allowed + 1e-7


@pytest.mark.parametrize("last", [0.0, 1e-5, 3.0, 1e9])
def test_the_multiplier_is_found_from_wherever_the_last_one_was(last):
    def fall(multiplier):
        return 1 / (1 + multiplier)

    assert solve_multiplier(fall, 0.5, last) == pytest.approx(1.0, rel=4e-3)
    assert solve_multiplier(fall, 1.0, last) == 0.0
    # what can't be reached: halfway to what the fastest step would give
    assert solve_multiplier(lambda m: max(fall(m), 0.8), 0.5, last) == pytest.approx(1 / 9, rel=4e-3)
    assert solve_multiplier(lambda m: 0.9, 0.5, last) < 1e10


def test_far_over_the_budget_some_gates_still_fall_faster_than_others():
    _, context = midway(allowed=0.01, keep_mask=torch.zeros(24, dtype=torch.bool))
    method, x = GDP(), context.gate_param.clone()
    squares = torch.logspace(-3, 3, 24)
    _, found = method.learn(remembered(method, context, squares), torch.zeros(24), context)
    ratio = polar_gate(found, 0.1) / polar_gate(x, 0.1)
    assert ratio.min() == pytest.approx(FASTEST, rel=1e-5) and ratio.max() > 0.99


@pytest.mark.parametrize("eps", [0.1, 1e-4])
def test_open_gates_fall_however_small_eps_is(eps):
    """At x = 1 the value hardly depends on x when eps is small; what is bounded is the value's fall, not that of x."""
    _, context = midway(allowed=0.01, keep_mask=torch.zeros(24, dtype=torch.bool))
    context.gates.set(torch.ones(24), eps)
    _, found = GDP().learn(remembered(GDP(), context), torch.zeros(24), replace(context, temperature=eps))
    assert polar_gate(found, eps).min() < 0.8
    value = torch.tensor([0.0, 0.3, 0.5, 0.99, 1.0], dtype=torch.float64)
    torch.testing.assert_close(polar_gate(x_of(value, eps), eps), value)


def test_the_least_sensitive_fall_first():
    """What makes gates part by the loss: of equal gates in one group, those with small squared gradients go."""
    _, context = midway(allowed=0.9, keep_mask=torch.zeros(24, dtype=torch.bool))
    context.gates.set(torch.ones(24), 0.1)
    squares = torch.ones(24).index_fill(0, torch.tensor([2, 9, 20]), 0.01)
    _, found = GDP().learn(remembered(GDP(), context, squares), torch.zeros(24), context)
    assert set(found.argsort()[:3].tolist()) == {2, 9, 20}


def test_closed_gates_stay_closed_and_chosen_ones_keep_a_value_of_one_half():
    chosen = torch.arange(24) % 2 == 0
    _, context = midway(allowed=0.01, low=0.35, keep_mask=chosen)
    context.gates.gate_param[3] = 0.0
    context.gates.set()
    method = GDP(rate=100.0)
    for _ in range(30):
        _, x = method.learn(remembered(method, context), torch.ones(24), context)
        context.gates.set(x)
    value = polar_gate(x, 0.1)
    assert x[3] == 0.0 and (value[chosen] > 0.4999).all() and (value[~chosen] < 0.01).all()
    after = method.step({}, context)
    assert (after[~chosen] == 0.0).all() and torch.equal(after[chosen], x[chosen])


def test_what_is_not_finite_teaches_nothing_and_the_end_of_the_window_glides():
    _, context = midway(allowed=0.1)
    method, x = GDP(), context.gate_param.clone()
    state, found = method.learn(remembered(method, context), torch.full((24,), float("nan")), context)
    assert torch.equal(found, x) and state["multiplier"] == 0.0
    last = replace(context, steps=context.window.last_selection)
    _, found = method.learn(remembered(method, context), torch.ones(24), last)
    assert torch.equal(found, x)
    gliding = at([0.5, 0.5, 0.0], [True, False, False], steps=20)
    assert method.step({}, gliding).tolist() == pytest.approx([0.5 * 10**0.3, 0.5 / 10**0.3, 0.0])
    assert method.step({}, replace(gliding, steps=19)).tolist() == [0.5, 0.5, 0.0]


def test_channels_are_chosen_by_x_and_by_sensitivity_per_flop_where_x_agree():
    _, context = midway()
    context.gates.set(torch.ones(24).index_fill(0, torch.tensor([5]), 0.9), 0.1)
    squares = torch.rand(24, generator=torch.Generator().manual_seed(3))
    squares[5] = 10.0
    per_flop = GDP().importance(remembered(GDP(), context, squares), context) / context.marginal
    assert per_flop.argmin() == 5
    others = torch.arange(24) != 5
    expected = (squares.double() / context.marginal)[others].argsort()
    assert torch.equal(per_flop[others].argsort(), expected)


def test_a_run_in_a_plain_loop_meets_the_target_and_leaves_every_group_something():
    torch.manual_seed(0)
    net = randomize(Residual()).train()
    x, y = torch.randn(16, 3, 12, 12), torch.arange(16) % 4
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    graph = gdp.trace(net, x, dry_run=False)
    pruner = gdp.Pruner(net, graph, 0.4, 40, GDP(every=1, closing=8))
    multipliers = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x).flatten(1)[:, :4], y)
        loss.backward()
        pruner.watch(loss)
        optimizer.step()
        pruner.step()
        multipliers.append(float(pruner.method_state["multiplier"]))
    assert pruner.done and 0.3 <= pruner.remaining <= 0.4 and (pruner.open_counts >= 1).all()
    assert max(multipliers) > 0.0


WRONG = [{"every": 0}, {"every": 1.5}, {"rate": -1.0}, {"rate": float("nan")}, {"power": -0.1}, {"power": 1.1}]
WRONG += [{"power": float("nan")}, {"memory": 1.0}, {"eps": (1e-4, 0.1)}, {"start": 0.6, "end": 0.5}]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_options_that_make_no_sense_are_refused_at_once(options):
    with pytest.raises(gdp.GDPError, match="Expected"):
        GDP(**options)
