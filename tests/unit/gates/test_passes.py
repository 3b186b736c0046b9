"""What passes of a gated network show: what its layers read, channel by channel, and its output."""

import copy
from contextlib import ExitStack, nullcontext
from functools import partial

import pytest
import torch
from helpers.networks import Cells, GRUOverRows, Transposed, inputs
from helpers.training import small_net
from torch import nn
from torch.utils.checkpoint import checkpoint

import gdp
from gdp.gates import observed

X = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def gated(net: nn.Module, x=X) -> gdp.gates.Gates:
    return gdp.insert_gates(net, gdp.trace(net, x, dry_run=False))


def grouped() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))


def test_every_gated_layer_shows_its_first_input_and_the_channels_in_it():
    net = small_net()
    gates, y = gated(net), torch.tensor([0, 3, 1])
    with observed(gates, y) as seen:
        out = net(X)
    assert len(seen) == 1 and seen[0].output is out and seen[0].labels is y
    names = [found.layer for found in seen[0].activations]
    assert names == ["1.0", "2.0", "5"]
    for found, layer in zip(seen[0].activations, (net[0], net[1], net[:5]), strict=True):
        torch.testing.assert_close(found.tensor, layer(net[:1](X) if found.layer == "2.0" else X))
        assert found.dim == 1 and len(found.channel) == found.tensor.shape[1]
    starts = [gates.spans[name].start for name in ("0.0", "1.0", "2.0")]
    assert seen[0].activations[1].channel.tolist() == list(range(starts[1], starts[1] + 16))
    assert seen[0].activations[2].channel.tolist() == [starts[2] + i // 4 for i in range(64)]  # 2x2 positions each


@pytest.mark.parametrize("make", [grouped, Transposed, Cells, GRUOverRows])
def test_a_channel_that_is_closed_is_the_one_that_was_shown_for_it(make):
    """Zeros in the entries that are shown for a channel do what its gate does."""
    torch.manual_seed(0)
    net = make().double().eval()
    x = tuple(v.double() for v in inputs(net)) if hasattr(net, "shapes") else (X.double(),)
    gates = gated(net, x)
    with observed(gates) as seen:
        net(*x)
    for channel in {a.channel[0].item() for a in seen[0].activations} - {len(gates.gate_param)}:
        closed = gates.gate_param.index_fill(0, torch.tensor([channel]), 0.0)
        with ExitStack() as hooks:
            for found in seen[0].activations:
                places = torch.nonzero(found.channel == channel).flatten()
                hook = partial(zeroed, found.dim, places)
                hooks.enter_context(net.get_submodule(found.layer).register_forward_pre_hook(hook))
            expected = net(*x)
        gates.set(closed)
        torch.testing.assert_close(net(*x), expected)
        assert not torch.equal(expected, seen[0].output)
        gates.set(torch.ones_like(closed))


def zeroed(dim, places, _, args):
    """Inputs of a layer with zeros at some places."""
    return args[0].index_fill(dim, places, 0.0), *args[1:]


def test_after_a_cut_the_channels_that_are_left_are_shown():
    net = small_net()
    graph = gdp.trace(net, X, dry_run=False)
    pruner = gdp.Pruner(net, graph, 0.9, 10)
    pruner.gates.close("1.0", range(0, 16, 2))
    pruner.shrink()
    with observed(pruner.gates) as seen:
        net(X)
    found = seen[0].activations[1]
    first = pruner.gates.spans["1.0"].start
    assert found.tensor.shape[1] == 8 and found.channel.tolist() == [first + i for i in range(1, 16, 2)]


def test_the_first_call_of_a_layer_in_a_pass_counts_and_calls_beside_passes_do_not():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.c(self.b(self.b(self.a(x))))

    net = Twice()
    gates = gated(net)
    with observed(gates) as seen:
        net.b(torch.zeros(1, 4, 2, 2))
        net(X), net(2 * X)
    for found, x in zip(seen, (X, 2 * X), strict=True):
        shown = {activation.layer: activation.tensor for activation in found.activations}
        torch.testing.assert_close(shown["b"], net.a(x))


def test_hooks_that_change_inputs_are_followed():
    net = small_net()
    gates = gated(net)
    with net[1][0].register_forward_pre_hook(lambda _, args: (2 * args[0],)), observed(gates) as seen:
        net(X)
    torch.testing.assert_close(seen[0].activations[0].tensor, 2 * net[0](X))


def test_an_input_by_name_is_refused():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.b(input=self.a(x))

    net = Named()
    gates = gated(net)
    with observed(gates), pytest.raises(gdp.GDPError, match="b gets its input by name"):
        net(X)


@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_of_checkpoints_layers_are_seen_unless_these_run_without_gradients(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.c(checkpoint(self.b, x, use_reentrant=reentrant) if self.training else self.b(x))

    net = Checkpointed().eval()
    gates = gated(net)
    net.train()
    refused = pytest.raises(gdp.GDPError, match=r"b is called without gradients.*use_reentrant=False")
    with observed(gates) as seen, refused if reentrant else nullcontext():
        net(X).sum().backward()
    assert reentrant or [found.layer for found in seen[0].activations] == ["b", "c"]
    with observed(gates) as seen, torch.no_grad():
        net(X)
    assert [found.layer for found in seen[0].activations] == ["b", "c"]


def test_copies_and_files_that_are_made_meanwhile_hold_no_hook():
    net = small_net()
    gates = gated(net)
    with observed(gates) as seen:
        twin = copy.deepcopy(net)
        twin(X)
        hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in (*net.modules(), *twin.modules())]
        assert not seen and not any(one or other for one, other in hooks)
        net(X)
    net(X)
    assert len(seen) == 1 and not torch.nn.modules.module._has_any_global_hook()


def test_a_network_that_is_only_traced_shows_nothing():
    net = small_net()
    gates = gated(net)
    with observed(gates) as seen:
        flops = gdp.utils.count_flops(net, X[:1])
    assert seen == [] and flops == gdp.utils.count_flops(net, X[:1])
