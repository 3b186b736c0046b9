"""Gated weights are not kept from forward to backward: they are computed anew, or a layer's input is gated instead."""

from itertools import accumulate

import pytest
import torch
from helpers.comparison import close_some
from helpers.networks import NETS, inputs
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import gdp
from gdp.gates import gated_layers

NEVER, ALWAYS = 10**12, 0  # is the input of a layer gated in place of its weight


@pytest.fixture(autouse=True)
def small_weights_count(monkeypatch):
    monkeypatch.setattr(gated_layers, "RECOMPUTE_NUMEL", 0)
    monkeypatch.setattr(gated_layers, "INPUT_GATING_RATIO", NEVER)


def gated(net: nn.Module, x) -> gdp.gates.Gates:
    graph = gdp.trace(net, x, dry_run=False)
    gates = gdp.insert_gates(net, graph)
    close_some(graph, gates)
    gates.gate_param.clamp_max_(0.7)
    gates.set()
    return gates


def gradients(net: nn.Module, x) -> list[torch.Tensor]:
    net.zero_grad()
    sum((t**2).sum() for t in tree_leaves(net(*x)) if isinstance(t, torch.Tensor)).backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("make", NETS, ids=lambda n: n.__name__)
def test_gradients_are_those_of_the_kept_product(make, monkeypatch):
    torch.manual_seed(0)
    net = make().eval()
    x = inputs(net)
    gated(net, x)
    lean = gradients(net, x)
    monkeypatch.setattr(gated_layers, "_saved_tensor_hooks_are_free", lambda: False)
    kept = gradients(net, x)
    assert len(lean) == len(kept) > 0 and all(torch.equal(a, b) for a, b in zip(lean, kept, strict=True))


def mlp() -> nn.Module:
    """Square and oblong linear layers, whose transposed weights autograd saves."""
    return nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.Linear(24, 8)
    )


@pytest.mark.parametrize("few", [NEVER, ALWAYS])
@pytest.mark.parametrize("shape", [(40, 12), (3, 40, 12), (12,)])
def test_linear_layers_of_every_shape(shape, few, monkeypatch):
    torch.manual_seed(0)
    net, x = mlp().double(), torch.randn(shape, dtype=torch.float64)
    gates = gated(net, (torch.randn(4, 12, dtype=torch.float64),))
    monkeypatch.setattr(gated_layers, "INPUT_GATING_RATIO", few)
    assert any(not bool(r.gate.eq(1).all()) for r in gates.readers if r.weight.shape == (24, 24))
    lean = gradients(net, (x,))
    monkeypatch.setattr(gated_layers, "RECOMPUTE_NUMEL", 10**9)  # by plain autograd
    for found, expected in zip(lean, gradients(net, (x,)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", NETS, ids=lambda n: n.__name__)
def test_gated_inputs_and_gated_weights_are_the_same(make, training, monkeypatch):
    torch.manual_seed(0)
    net = make().double().train(training)
    x = tuple(t.double() if torch.is_tensor(t) and t.is_floating_point() else t for t in inputs(net))
    gated(net, x)
    outputs, slopes = [], []
    for few in (NEVER, ALWAYS):
        monkeypatch.setattr(gated_layers, "INPUT_GATING_RATIO", few)
        torch.manual_seed(0)
        outputs.append([t.detach() for t in tree_leaves(net(*x)) if isinstance(t, torch.Tensor)])
        torch.manual_seed(0)
        slopes.append(gradients(net, x))
    for one, other in (outputs, slopes):
        assert len(one) == len(other) > 0
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_layers_that_read_little_gate_their_input(monkeypatch):
    net, x = wide()
    gated(net, x)
    monkeypatch.setattr(gated_layers, "INPUT_GATING_RATIO", ALWAYS)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        net(*x)
    weights = [p for p in net.parameters() if p.dim() == 4][1:]
    assert all(any(kept is weight or kept.data_ptr() == weight.data_ptr() for kept in saved) for weight in weights)


def wide() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 64, 1), *layers, nn.Conv2d(64, 2, 1)), (torch.randn(2, 3, 4, 4),)


def held(net: nn.Module, x) -> int:
    """Bytes that live on after the forward pass."""
    with torch.autograd.profiler.profile(profile_memory=True) as found:
        out = net(*x)
    del out
    events = sorted((e for e in found.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return list(accumulate(e.nbytes() for e in events))[-1]


def test_no_second_copy_of_the_weights_lives_until_backward(monkeypatch):
    net, x = wide()
    dense = held(net, x)
    gated(net, x)
    weights = sum(p.nbytes for p in net.parameters())
    assert held(net, x) - dense < 0.05 * weights
    monkeypatch.setattr(gated_layers, "_saved_tensor_hooks_are_free", lambda: False)
    assert held(net, x) - dense > 0.9 * weights  # what it would be


def test_checkpointing_and_hooks_of_others_see_everything():
    net, x = wide()
    gated(net, x)
    expected = gradients(net, x)
    net.zero_grad()
    checkpoint(net, *x, use_reentrant=False).pow(2).sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), expected, strict=True))
    seen = []
    with saved_tensors_hooks(lambda t: seen.append(tuple(t.shape)) or t, lambda t: t):
        out = net(*x)
    out.pow(2).sum().backward()
    assert seen.count((64, 64, 3, 3)) == 6 and (2, 3, 4, 4) in seen


def test_second_derivatives_and_functional_transforms():
    net, x = wide()
    net = nn.Sequential(*[nn.Softplus() if isinstance(m, nn.ReLU) else m for m in net]).double()
    x = (x[0].double().requires_grad_(),)
    gated(net, x)

    def penalty() -> list[torch.Tensor]:
        net.zero_grad()
        (slope,) = torch.autograd.grad(net(*x).sum(), x, create_graph=True)
        slope.pow(2).sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    lean = penalty()
    with saved_tensors_hooks(lambda t: t, lambda t: t):  # gdp keeps out of it
        kept = penalty()
    assert len(lean) > 6 and all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(lean, kept, strict=True))
    by_function = torch.func.grad(lambda image: net(image).sum())(x[0].detach())
    torch.testing.assert_close(by_function, torch.autograd.grad(net(*x).sum(), x)[0])


def test_a_weight_changed_between_forward_and_backward_is_an_error():
    net, x = wide()
    gated(net, x)
    out = net(*x).sum()
    with torch.no_grad():
        net[1]._parameters["weight"].mul_(2)
    with pytest.raises(RuntimeError, match="changed in place between forward and backward"):
        out.backward()


def test_autocast_keeps_what_it_kept():
    net, x = wide()
    gated(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(*x)
    out.float().pow(2).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters()) and out.dtype == torch.bfloat16
