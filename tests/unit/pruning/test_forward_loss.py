"""A loss that is added in passes of the network: its gradients are those of the same loss, written beside the other."""

from dataclasses import dataclass

import pytest
import torch
from helpers.looking_methods import AddsLoss, penalty_of
from helpers.networks import DictOutput, randomize
from helpers.training import small_net
from torch import nn
from torch.utils._pytree import tree_map

import gdp
from gdp.gates import observed
from gdp.pruning import forward_loss_added

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def pruner_of(net, method=None):
    return gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 60, method or AddsLoss())


def gradients(net):
    found = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    return found


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))


def written(pruner, loss_of, factor=1.0):
    """Gradients of both losses in one sum."""
    net = pruner.gates.model
    with observed(pruner.gates) as seen:
        out = net(X)
    penalty = penalty_of([a.tensor for a in seen[0].activations], first(out), 0.1)
    (loss_of(tree_map(torch.clone, out)) + factor * penalty).backward()
    return gradients(net)


def first(out):
    return out if isinstance(out, torch.Tensor) else next(iter(out.values() if isinstance(out, dict) else out))


@dataclass(frozen=True)
class OfFirst(AddsLoss):
    def forward_loss(self, state, seen, context):
        return penalty_of([a.tensor for a in seen.activations], first(seen.output), self.weight)


class TwoHeads(nn.Module):
    """Nothing is learned from the first of its outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.unused, self.used = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.body(x).relu()
        return self.unused(x), self.used(x)


LOSSES = {
    "tensor": (small_net, lambda out: out.square().mean()),
    "in place": (small_net, lambda out: out.mul_(2).sum()),
    "second of two": (TwoHeads, lambda out: out[1].square().mean()),
    "dict": (DictOutput, lambda out: sum(v.square().mean() for v in out.values())),
}


@pytest.mark.parametrize("make, loss_of", LOSSES.values(), ids=LOSSES)
def test_gradients_are_those_of_the_same_loss_written_beside_the_other(make, loss_of):
    torch.manual_seed(0)
    pruner = pruner_of(randomize(make()), OfFirst())
    net = pruner.gates.model
    expected = written(pruner, loss_of)
    with forward_loss_added(pruner) as shown:
        loss = loss_of(net(X))
    loss.backward()
    assert shown
    for found, wanted in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_output_and_its_loss_are_what_they_were():
    net = small_net().eval()
    pruner = pruner_of(net)
    expected = net(X)
    net.train()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    with forward_loss_added(pruner):
        out = net(X)
    assert torch.equal(out, expected) and out.requires_grad


def test_the_loss_is_multiplied_as_the_other_is():
    net = small_net()
    pruner = pruner_of(net)
    expected = written(pruner, lambda out: out.sum() * 0, 8.0)
    with forward_loss_added(pruner, lambda loss: 8 * loss):
        (net(X).sum() * 0).backward()
    for found, wanted in zip(gradients(net), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_every_pass_adds_its_own():
    net = small_net().eval().requires_grad_(True)
    pruner = pruner_of(net)
    net.train()
    with forward_loss_added(pruner):
        (net(X).sum() * 0).backward()
        once = gradients(net)
        ((net(X).sum() + net(X).sum()) * 0).backward()
    for found, wanted in zip(gradients(net), once, strict=True):
        torch.testing.assert_close(found, 2 * wanted)


@pytest.mark.parametrize("when", ["eval", "no_grad", "done", "after"])
def test_nothing_is_added_outside_of_training(when):
    net = small_net()
    pruner = pruner_of(net)
    net.train(when != "eval")
    pruner.done = when == "done"
    net(X).sum().backward()
    expected = gradients(net)
    with forward_loss_added(pruner) as shown:
        if when == "no_grad":
            with torch.no_grad():
                net(X)
        elif when != "after":
            net(X).sum().backward()
    if when in ("no_grad", "after"):
        net(X).sum().backward()
    assert not shown
    assert_equal(gradients(net), expected)


def test_gradients_of_gradients_are_refused():
    net = small_net()
    pruner = pruner_of(net)
    x = X.clone().requires_grad_()
    with forward_loss_added(pruner):
        out = net(x)
    with pytest.raises(gdp.GDPError, match="create_graph=True"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


def test_a_loss_that_is_no_scalar_is_refused_by_name():
    class Vector(AddsLoss):
        def forward_loss(self, state, seen, context):
            return seen.output

    pruner = pruner_of(small_net(), Vector())
    with forward_loss_added(pruner), pytest.raises(gdp.GDPError, match=r"Vector\.forward_loss.*scalar.*\(4, 4\)"):
        pruner.gates.model(X)
    Vector.forward_loss = lambda self, state, seen, context: 3.0
    with forward_loss_added(pruner), pytest.raises(gdp.GDPError, match=r"Vector\.forward_loss.*scalar.*got 3\.0"):
        pruner.gates.model(X)


def test_an_output_without_a_tensor_in_sight_is_refused():
    class Box:
        def __init__(self, value):
            self.value = value

    class Boxed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return Box(self.b(self.a(x)))

    class Inner(AddsLoss):
        def forward_loss(self, state, seen, context):
            return penalty_of([a.tensor for a in seen.activations], seen.output.value, self.weight)

    net = Boxed()
    pruner = pruner_of(net, Inner())
    with forward_loss_added(pruner), pytest.raises(gdp.GDPError, match=r"\(a Box\)"):
        net(X)
