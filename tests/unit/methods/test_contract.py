"""A method that breaks the contract prunes nothing: it is named before training."""

from dataclasses import dataclass

import pytest
import torch
from helpers.networks import Residual

import gdp
from gdp.methods import GlidingGates, LearningBatches

X = torch.zeros(1, 3, 12, 12)


@dataclass(frozen=True)
class Right(GlidingGates):
    """Does everything that a method may do, as it is to be done."""

    learns_from = LearningBatches("train", 1)

    def init_state(self, channels):
        return {"seen": torch.zeros(channels)}

    def importance(self, state, context):
        return torch.ones_like(context.gate_param)

    def penalty(self, state, context):
        return sum(t.parameter.abs().sum() for t in context.tensors("writes"))

    def factors(self, state, context):
        return {"writes": torch.ones_like(context.gate_param)}


def wrong(**members):
    return type("Wrong", (Right,), members)()


CASES = {
    "value": (lambda self, x, t: x + 0.1, "exactly 0 for x = 0"),
    "value ": (lambda self, x, t: x * 0.5, "exactly 1 for x = 1"),
    "value  ": (lambda self, x, t: torch.where((x > 0.3) & (x < 0.6), 0.1, x), "rise with x"),
    "value   ": (lambda self, x, t: x.sum(), r"shape \(101,\)"),
    "temperatures": (property(lambda self: None), "failed before training"),
    "init_state": (lambda self, channels: torch.zeros(channels), "a dict of tensors"),
    "update": (lambda self, state, gradient, context: {}, "the names of init_state"),
    "update ": (lambda self, state, gradient, context: state["nothing"], "KeyError: 'nothing'"),
    "importance": (lambda self, state, context: torch.ones(3), r"shape \(24,\), .*, but got shape \(3,\)"),
    "importance ": (lambda self, state, context: torch.full((24,), float("nan")), "finite numbers of at least 0"),
    "importance  ": (lambda self, state, context: -context.gate_param, "but got -1.0"),
    "step": (lambda self, state, context: context.gate_param + 1, r"numbers in \[0, 1\]"),
    "finalize": (lambda self, state, context: context.gate_param * 0, "above 1/2 for channels that stay"),
    "learn": (lambda self, state, gradient, context: state, "a pair of state and x"),
    "learns_from": (LearningBatches("test", 1), "LearningBatches"),
    "penalty": (lambda self, state, context: torch.ones(3), r"scalar tensor, or None, but got shape \(3,\)"),
    "penalty ": (lambda self, state, context: 3.0, "but got 3.0"),
    "factors": (lambda self, state, context: {"gamma": torch.ones(24)}, "roles out of writes"),
    "factors ": (lambda self, state, context: {"scales": torch.ones(2)}, r"shape \(24,\)"),
    "observed_batches": (-1, "a number of batches"),
}


@pytest.mark.parametrize("member", CASES)
def test_what_is_wrong_is_named_before_training(member):
    found, message = CASES[member]
    net = Residual()
    keys = list(net.state_dict())
    with pytest.raises(gdp.GDPError, match=rf"Wrong\.{member.strip()} .*{message}"):
        gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 100, wrong(**{member.strip(): found}))
    assert list(net.state_dict()) == keys and type(net.b) is torch.nn.Conv2d


def test_importance_that_is_lost_on_the_way_is_named():
    net = Residual()
    method = wrong(importance=lambda self, state, context: torch.full((24,), float("nan") if context.steps else 1.0))
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 20, method)
    with pytest.raises(gdp.GDPError, match=r"Wrong\.importance .*finite"):
        [pruner.step() for _ in range(20)]


def test_whatever_a_method_does_with_gates_the_target_is_met():
    """One that closes everything, and opens what is closed for good."""
    net = Residual()
    method = wrong(
        step=lambda self, state, context: 1.0 - context.gate_param,
        learn=lambda self, state, gradient, context: (state, gradient * 0),
        factors=lambda self, state, context: None,
    )
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 60, method)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 12, 12)).square().mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()
        pruner.shrink([optimizer])
    report = gdp.remove(net, pruner.graph, pruner.gates)
    assert 0.45 <= report.remaining <= 0.5 and gdp.utils.count_flops(net, X) == report.flops_after
