"""In a plain loop: the batches before every choice of channels are those that a method is shown."""

import copy

import pytest
import torch
from helpers.looking_methods import ByActivity, Shown
from helpers.training import small_net
from torch import nn

import gdp
from gdp.gates import observed
from gdp.pruning import check_observation

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def pruner_of(method, total=60, net=None):
    torch.manual_seed(0)
    net = net or small_net()
    return gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, total, method)


def train(pruner, steps, broken=()):
    """Train, and return the steps at which the method was shown a batch, and those at which channels were chosen."""
    shown, chosen = [], []
    optimizer = torch.optim.SGD(pruner.gates.model.parameters(), 0.01)
    for _ in range(steps):
        fraction = pruner.selected_fraction
        if pruner.wants_observation:
            shown.append(pruner.steps + 1)
        optimizer.zero_grad()
        with observed(pruner.gates) as seen:
            loss = pruner.gates.model(X).square().mean()
        loss.backward()
        if pruner.wants_observation:
            pruner.observe(seen[0])
            assert not pruner.wants_observation  # further batches of the same step are not shown
        pruner.watch(loss * float("nan") if pruner.steps + 1 in broken else loss)
        optimizer.step()
        pruner.step()
        if pruner.selected_fraction != fraction:
            chosen.append(pruner.steps)
    return shown, chosen


@pytest.mark.parametrize("batches", [1, 2, 3, 5, 8])
def test_the_last_batches_before_every_choice_are_shown(batches):
    pruner = pruner_of(Shown(batches=batches))
    shown, chosen = train(pruner, 60)
    assert pruner.done and len(chosen) > 3 and chosen[0] == pruner.window.start
    expected = {step for last in chosen for step in range(max(1, last - batches + 1), last + 1)}
    assert shown == sorted(expected) and pruner.method_state["shown"] == len(shown)


@pytest.mark.filterwarnings("ignore:gdp. the loss or a gradient")
def test_a_choice_that_had_to_wait_is_made_after_further_batches():
    pruner = pruner_of(Shown(batches=2))
    start, second = pruner.window.start, pruner.window.start + pruner.window.selection_interval
    shown, chosen = train(pruner, second + 4, broken=(second, second + 1))
    assert chosen[:2] == [start, second + 2]
    assert shown[:6] == [start - 1, start, second - 1, second, second + 1, second + 2]


def test_a_method_that_observes_nothing_is_shown_nothing():
    assert train(pruner_of(gdp.Polar()), 60)[0] == []


def test_a_resumed_run_is_shown_what_an_uninterrupted_one_is():
    whole = pruner_of(ByActivity(batches=3))
    first = train(whole, 20)[0]
    saved, weights = copy.deepcopy(whole.state_dict()), copy.deepcopy(whole.gates.model.state_dict())
    rest = train(whole, 40)[0]
    again = pruner_of(ByActivity(batches=3))
    again.load_state_dict(saved)
    again.gates.model.load_state_dict(weights)
    again.resume()
    assert train(again, 40)[0] == rest and set(first).isdisjoint(rest)
    for name, tensor in whole.method_state.items():
        assert torch.equal(tensor, again.method_state[name])
    assert torch.equal(whole.gates.gate_param, again.gates.gate_param) and whole.done


def test_channels_that_no_layer_shows_are_named():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.c(torch.nn.functional.conv2d(self.a(x), self.b.weight, self.b.bias))

    pruner = pruner_of(Shown(), net=Functional())
    with observed(pruner.gates) as seen:
        pruner.gates.model(X)
    with pytest.raises(gdp.GDPError, match=r"read the channels of a was called as a module.*ignore"):
        check_observation(pruner, seen[0])
    with pytest.raises(gdp.GDPError, match="does not call Functional as a whole"):
        check_observation(pruner, None)
    pruner.hold_open({"a": "it stays"})
    check_observation(pruner, seen[0])


def observing(member):
    class Wrong(Shown):
        observe = member

    pruner = pruner_of(Wrong())
    with observed(pruner.gates) as seen, torch.no_grad():
        pruner.gates.model(X)
    return pruner, seen[0]


@pytest.mark.parametrize(
    "member, found",
    [
        (lambda self, state, seen, context: None, "a dict of tensors, but got None"),
        (lambda self, state, seen, context: {"other": state["shown"]}, r"names of init_state.*but got \['other'\]"),
        (
            lambda self, state, seen, context: seen.activations[99],
            "failed before training .IndexError",
        ),
    ],
)
def test_a_method_that_makes_no_state_of_what_it_is_shown_is_refused_by_name(member, found):
    pruner, seen = observing(member)
    state = dict(pruner.method_state)
    with pytest.raises(gdp.GDPError, match=rf"Wrong\.observe.*{found}"):
        check_observation(pruner, seen)
    assert pruner.method_state == state
