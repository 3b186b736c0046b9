"""A method that breaks the contract prunes nothing: it is named before training."""

import copy
import itertools
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


def writes_into_gates(self, state, context):
    context.gate_param.mul_(0.5)
    return torch.ones(24)


def writes_into_the_choice(self, state, context):
    context.keep_mask.fill_(True)
    return context.gate_param


def writes_into_weights(self, state, context):
    context.tensors("writes")[0].parameter.mul_(0.5)
    return torch.ones(24)


def adds_a_name(self, state, gradient, context):
    state["more"] = gradient
    return state


def keeps_a_graph(self, state, gradient, context):
    return {"seen": torch.zeros(24, requires_grad=True)}


COUNT = itertools.count()
IMPURE = {
    "importance": (writes_into_gates, "has changed context.gate_param"),
    "importance ": (writes_into_weights, r"has changed the parameter stem\.0\.weight"),
    "importance  ": (lambda self, state, context: torch.rand(24), "changed torch's random numbers.*Generator"),
    "importance   ": (lambda self, state, context: torch.full((24,), 1.0 + next(COUNT)), "the same numbers"),
    "step": (writes_into_the_choice, "has changed context.keep_mask"),
    "update": (lambda self, state, gradient, context: {"seen": state["seen"].add_(1)}, r"has changed state\['seen'\]"),
    "update ": (adds_a_name, "has changed the names in state"),
    "update  ": (keeps_a_graph, "tensors without a graph"),
    "factors": (lambda self, state, context: [torch.ones(24)], "a dict of factors by role"),
    "factors ": (lambda self, state, context: {"scales": torch.full((24,), float("inf"))}, "finite numbers"),
    "importance    ": (lambda self, state, context: torch.ones(24, dtype=torch.complex64), "real numbers"),
    "regrows": (lambda self: True, "True or False, as a property"),
    "temperature": (lambda self, progress: None, "failed before training"),
}


@pytest.mark.parametrize("member", IMPURE)
def test_what_changes_something_is_named_before_training_and_nothing_stays_changed(member):
    found, message = IMPURE[member]
    torch.manual_seed(0)
    net = Residual()
    before, numbers = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(gdp.GDPError, match=rf"Wrong\.{member.strip()} .*{message}"):
        gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 100, wrong(**{member.strip(): found}))
    assert list(net.state_dict()) == list(before) and torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def later(member, bad):
    """What is right at first, and wrong from the fifth step on."""
    right = getattr(Right, member)
    return lambda self, *told: bad(self, *told) if told[-1].steps >= 5 else right(self, *told)


LATER = {
    "step": (lambda self, state, context: context.gate_param[:3], r"shape \(24,\), .*, but got shape \(3,\)"),
    "step ": (writes_into_the_choice, "has changed context.keep_mask"),
    "update": (lambda self, state, gradient, context: {"new": gradient}, "the names of init_state"),
    "learn": (lambda self, state, gradient, context: context.gate_param, "a pair of state and x"),
    "penalty": (lambda self, state, context: 3.0, "a scalar tensor, or None"),
    "factors": (lambda self, state, context: {"scales": torch.ones(2)}, r"shape \(24,\)"),
    "finalize": (lambda self, state, context: context.gate_param * 0, "above 1/2 for channels that stay"),
}


@pytest.mark.parametrize("member", LATER)
def test_what_goes_wrong_in_training_is_named(member):
    bad, message = LATER[member]
    net = Residual()
    pruner = gdp.Pruner(
        net, gdp.trace(net, X, dry_run=False), 0.5, 20, wrong(**{member.strip(): later(member.strip(), bad)})
    )
    with pytest.raises(gdp.GDPError, match=rf"Wrong\.{member.strip()} .*{message}"):
        train(net, pruner, 20)


def train(net, pruner, steps):
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 12, 12)).square().mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()


@pytest.mark.filterwarnings("ignore:.*is not finite")
def test_a_method_need_not_look_out_for_numbers_that_are_not_finite():
    """Neither for gradients, as gradient scalers find them at first, nor in what it returns."""
    nan = float("nan")
    method = wrong(
        update=lambda self, state, gradient, context: {"seen": state["seen"] + gradient.square()},
        importance=lambda self, state, context: 1 + state["seen"],
        learn=lambda self, state, gradient, context: (state, context.gate_param - 0.01 * gradient),
        step=later("step", lambda self, state, context: context.gate_param * (nan if context.steps % 2 else 0.9)),
        factors=later("factors", lambda self, state, context: {"writes": context.gate_param * nan}),
        penalty=lambda self, state, context: None,
    )
    net = Residual()
    pruner = gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 20, method)
    for step in range(20):
        if step % 4 == 0:
            for parameter in net.parameters():
                parameter.grad = torch.full_like(parameter, nan)
            pruner.watch(torch.tensor(nan))
            pruner.step()
        else:
            train(net, pruner, 1)
    assert pruner.done and pruner.method_state["seen"].isfinite().all() and pruner.gates.gate_param.isfinite().all()
    assert all(value.isfinite().all() for value in net.state_dict().values())
