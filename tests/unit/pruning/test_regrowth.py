"""Channels that are closed come back if they are chosen again, as long as the window lasts."""

import copy
from dataclasses import dataclass

import pytest
import torch
from helpers.features import refused
from helpers.training import small_net

import gdp
from gdp.methods import HardGates

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Turning(HardGates):
    """Closes at once what was not chosen; halfway the most important channels are the least."""

    end: float = 0.9
    returning: bool = True

    @property
    def regrows(self):
        return self.returning

    def importance(self, state, context):
        numbers = torch.linspace(1, 2, len(context.gate_param))
        return context.marginal * (numbers if context.progress < 0.5 else numbers.flip(0))

    def step(self, state, context):
        return context.chosen.float()


def run(net, pruner, optimizer, steps):
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()
        pruner.shrink([optimizer])
        found.append((pruner.gates.gate_param > 0, pruner.gates.removed))
    return found


def pruned(returning=True):
    torch.manual_seed(0)
    net = small_net()
    pruner = gdp.Pruner(net, gdp.trace(net, X[:1], dry_run=False), 0.4, 40, Turning(returning=returning))
    return net, pruner, torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)


def test_closed_channels_come_back_and_nothing_is_cut_before_the_window_ends():
    net, pruner, optimizer = pruned()
    found = run(net, pruner, optimizer, 40)
    opens = torch.stack([is_open for is_open, _ in found])
    came_back = (~opens[:-1] & opens[1:]).any(0)
    assert came_back.any() and pruner.window.end == 36
    assert not any(removed.any() for _, removed in found[:35]) and found[-1][1].any()
    assert pruner.done and torch.equal(found[-1][1], ~found[-1][0]) and pruner.remaining <= 0.4


def test_they_do_not_with_a_method_that_does_not_regrow():
    found = run(*pruned(returning=False), 40)
    opens = torch.stack([is_open for is_open, _ in found])
    assert not (~opens[:-1] & opens[1:]).any() and found[30][1].any()


def test_weights_of_closed_channels_go_on_training():
    net, pruner, optimizer = pruned()
    run(net, pruner, optimizer, 15)
    closed = (pruner.gates["0.0"].gate_param == 0).nonzero().flatten()
    weight = net[1][0]._parameters["weight"]
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)  # without momentum, which moves weights without gradients
    run(net, pruner, optimizer, 1)
    assert len(closed) and (weight != before)[:, closed].any(0).any()


def test_a_loaded_run_goes_on_with_what_is_closed():
    net, pruner, optimizer = pruned()
    run(net, pruner, optimizer, 15)
    other, again, another = pruned()
    other.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(pruner.state_dict()))
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.resume()
    assert again.gates.view.straight_through and bool((again.gates.gate_param == 0).any())
    run(net, pruner, optimizer, 25)
    run(other, again, another, 25)
    assert pruner.done and again.done and not again.gates.view.straight_through
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@refused(
    "Methods",
    "`shrink=50` with a method that lets channels come back",
    "Turning lets channels come back until its window ends, so they can't be cut every … steps before. "
    "Use shrink='epoch', which waits for that, or shrink='end'.",
)
@pytest.mark.parametrize("shrink", [1, 50])
def test_cuts_within_the_window_are_refused_before_the_first_step(shrink, refusal):
    with refusal:
        gdp.GDPCallback(0.5, method=Turning(), shrink=shrink)
    for allowed in ("epoch", "end"):
        gdp.GDPCallback(0.5, method=Turning(), shrink=allowed)
