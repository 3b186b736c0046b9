import copy

import pytest
import torch
from helpers.comparison import assert_history_is_of
from helpers.networks import Residual, Tied, randomize
from helpers.training import small_net
from torch import nn

import gdp
from gdp.report import LIMIT

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def train(net: nn.Module, pruner: gdp.Pruner, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()


def test_importance_is_the_squared_gradient_of_the_gate_tied_weights_included():
    """Against finite differences of the loss in every gate."""
    torch.manual_seed(0)
    net = randomize(Tied()).double().eval()
    graph = gdp.trace(net, X, dry_run=False)
    pruner = gdp.Pruner(net, graph, 0.5, 100, gdp.Polar(memory=0.0, gradient_interval=1))
    gates = pruner.gates
    gates.gate_param.fill_(0.4)
    gates.set()

    def loss() -> torch.Tensor:
        return net(X.double()).square().mean()

    loss().backward()
    pruner.watch()
    for c in range(8):
        step, values = 1e-4, []
        for sign in (1, -1):
            for reader in gates.readers:
                gate = reader.gate.double().clone()
                gate.view(-1)[reader.index == c] += sign * step
                reader.module._buffers[reader.tensor + "_gdp_gate"] = gate
            values.append(loss().item())
            for reader in gates.readers:
                reader.module._buffers[reader.tensor + "_gdp_gate"] = reader.gate.float()
            gates.set()
        gradient = gates["stem.0"].value[c].item() * (values[0] - values[1]) / (2 * step)
        assert pruner.method_state["importance"][c].item() == pytest.approx(gradient**2, rel=1e-2)


def test_a_window_in_a_plain_loop_ends_at_the_target():
    torch.manual_seed(0)
    net = randomize(Residual())
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, total_steps=60)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    start, fixed, end, *_ = pruner.window
    assert (start, fixed, end) == (6, 29, 36)
    train(net, pruner, optimizer, start - 1)
    assert pruner.remaining == 1.0 and pruner.method_state["importance"].max() > 0 and pruner.gates.values.min() == 1.0
    train(net, pruner, optimizer, end - start + 1)
    assert pruner.done and 0.49 <= pruner.remaining <= 0.5
    values = pruner.gates.values
    assert ((values == 0) | (values > 0.5)).all()
    report = gdp.remove(net, pruner.graph, pruner.gates, [optimizer])
    assert report.remaining == pruner.remaining


def test_gradients_that_are_not_finite_or_missing_change_nothing():
    net = randomize(Residual())
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 60, gdp.Polar(gradient_interval=1))
    pruner.watch()
    assert pruner.method_state["importance"].max() == 0.0
    net(X).sum().backward()
    pruner.watch()
    importance = pruner.method_state["importance"].clone()
    net.a[0].weight.grad[0, 0] = float("inf")
    pruner.watch()
    assert torch.equal(pruner.method_state["importance"], importance) and importance.max() > 0


def test_a_loaded_pruner_goes_on_where_it_was():
    torch.manual_seed(0)
    net = randomize(Residual())
    graph = gdp.trace(net, X, dry_run=False)
    other = copy.deepcopy(net)
    first = gdp.Pruner(net, graph, 0.5, 60)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    train(net, first, optimizer, 20)
    second = gdp.Pruner(other, graph, 0.5, 60)
    other.load_state_dict(net.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.resume()
    for model, pruner in ((net, first), (other, second)):
        train(model, pruner, torch.optim.SGD(model.parameters(), 0.01), 20)
    assert torch.equal(first.gates.gate_param, second.gates.gate_param) and first.done and second.done
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_state_of_another_network_is_refused():
    net = Residual()
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 60)
    state = pruner.state_dict()
    state["gates"]["gate_param"] = state["gates"]["gate_param"][:-1]
    with pytest.raises(gdp.GDPError, match="checkpoint has 23 gates, but this network has 24"):
        pruner.load_state_dict(state)


@pytest.mark.parametrize("target", [0.15, 0.0046])
def test_no_group_loses_more_than_nine_tenths_unless_the_target_asks_for_it(target):
    """One group has next to no importance, so by importance alone all but one of its channels would go."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 40, 3), nn.ReLU(), nn.Conv2d(40, 5, 3))
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), target, total_steps=60)
    train(net, pruner, torch.optim.SGD(net.parameters(), 0.0), pruner.window.start - 1)
    poor = pruner.gates.spans["2"]
    pruner.method_state["importance"][poor] *= 1e-9
    pruner.finish()
    opened = dict(zip((g.name for g in pruner.graph.groups), pruner.open_counts.tolist(), strict=True))
    assert pruner.remaining <= target
    assert opened["2"] == (4 if target == 0.15 else 1)


def test_the_guard_knows_multiples_and_blocks():
    net = randomize(Residual())
    graph = gdp.trace(net, X, blocks=True, dry_run=False)
    widths = gdp.selection.WidthConstraints.of(graph, round_to=4)
    counts = dict(zip((g.name for g in graph.groups), widths.with_min_fraction(0.6).tolist(), strict=True))
    inside = {name for block in graph.blocks for name in block.groups}
    assert inside and all(counts[name] == 0 for name in inside)
    for group in graph.groups:
        if group.name not in inside:
            assert counts[group.name] >= 0.6 * group.size and counts[group.name] in (group.size, *range(0, 99, 4))


def test_a_state_from_before_a_cut_is_refused():
    net = small_net()
    pruner = gdp.Pruner(net, gdp.trace(net, torch.randn(1, 3, 12, 12), dry_run=False), 0.5, 20)
    state = pruner.state_dict()
    pruner.gates.close("0.0", [1, 2])
    pruner.shrink()
    with pytest.raises(gdp.GDPError, match="Build the network anew"):
        pruner.load_state_dict(state)
    assert pruner.gates.removed.sum() == 2


def test_the_history_of_a_long_window_ends_as_the_report_does():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(4, 6)
    pruner = gdp.Pruner(net, gdp.trace(net, x, dry_run=False), 0.5, 1250, gdp.Polar(closing=19))  # looks at every step
    for _ in range(800):
        net.zero_grad()
        net(x).square().mean().backward()
        pruner.watch()
        pruner.step()
    assert pruner.done
    report = gdp.remove(net, pruner.graph, pruner.gates)
    assert report.history.interval > 1 and LIMIT // 2 <= len(report.history.steps) <= LIMIT
    assert report.history.steps[-1] == pruner.window.end
    assert_history_is_of(report.history, report)


def finished(make, reasons, target, blocks=False, steps=60, **kw):
    """A network after a whole run in which some groups are held open, its pruner and its report."""
    torch.manual_seed(0)
    net = randomize(make())
    pruner = gdp.Pruner(net, gdp.trace(net, X, blocks=blocks, dry_run=False), target, steps, **kw)
    pruner.hold_open(reasons)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    train(net, pruner, optimizer, steps)
    return net, pruner, gdp.remove(net, pruner.graph, pruner.gates, [optimizer])


@pytest.mark.parametrize("kw", [{}, {"blocks": True}, {"method": gdp.Polar(end=0.4)}], ids=str)
def test_groups_that_are_held_open_keep_all_channels_and_the_others_meet_the_target(kw):
    _, pruner, report = finished(Residual, {"a.0": "something else reads it"}, 0.6, **kw)
    assert pruner.done and report.flops_after == report.flops_predicted and 0.55 <= report.remaining <= 0.6
    assert "a.0" not in [name for name, *_ in report.groups]
    assert [(f.channels, f.reason) for f in report.frozen if f.name == "a.0"] == [(6, "something else reads it")]
    assert "a.0.weight" not in report.plan.keep or 0 not in report.plan.keep["a.0.weight"]
    assert report.history.open_counts[-1] == [kept for _, kept, _ in report.groups]


def test_a_target_that_is_out_of_reach_with_what_is_held_open_is_refused_and_nothing_changes():
    net = Residual()
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.3, 60)
    before = pruner.budget
    reasons = {group.name: "something else reads it" for group in pruner.graph.groups}
    with pytest.raises(gdp.GDPError, match=r"out of reach(.|\n)*a\.0 \(6 channels\): something else reads it"):
        pruner.hold_open(reasons)
    assert pruner.budget is before and pruner.gates.graph is pruner.graph


def test_a_budget_in_time_knows_what_is_held_open():
    torch.manual_seed(0)
    net = randomize(Residual())
    graph = gdp.trace(net, X, dry_run=False)
    pruner = gdp.Pruner(net, graph, 0.7, 60, cost=gdp.selection.latency_model(net, graph))
    coef = pruner.budget.cost.coef
    pruner.hold_open({"a.0": "something else reads it"})
    assert torch.equal(pruner.budget.cost.coef, coef)
    train(net, pruner, torch.optim.SGD(net.parameters(), 0.01), 60)
    assert pruner.open_counts[[g.name for g in graph.groups].index("a.0")] == 6 and pruner.remaining <= 0.7


def test_what_is_held_open_is_so_in_a_resumed_run():
    torch.manual_seed(0)
    net = randomize(Residual())
    graph = gdp.trace(net, X, dry_run=False)
    other = copy.deepcopy(net)
    first = gdp.Pruner(net, graph, 0.6, 60)
    first.hold_open({"a.0": "something else reads it"})
    second = gdp.Pruner(other, graph, 0.6, 60)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.graph.held == first.graph.held
    for model, pruner in ((net, first), (other, second)):
        train(model, pruner, torch.optim.SGD(model.parameters(), 0.01), 60)
    assert torch.equal(first.gates.gate_param, second.gates.gate_param) and first.done
