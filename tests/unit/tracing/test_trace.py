import copy

import pytest
import torch
import torchvision
from helpers.networks import (
    AuxiliaryHead,
    Chain,
    ChannelScale,
    Chunk,
    Concat,
    FunctionalConv,
    Grouped,
    LearnedSlopes,
    Mask,
    OptionA,
    Residual,
    Reused,
    Tied,
    conv,
)
from torch import nn

import gdp
from gdp.tracing import trace_channels

X = torch.randn(2, 3, 12, 12)


def groups(net: nn.Module, **kw) -> dict:
    return {g.name: g for g in trace_channels(net, X, **kw).groups}


def test_chain_groups_tensors_and_reader():
    found = groups(Chain())
    assert {n: (g.size, g.readers) for n, g in found.items()} == {"0.0": (8, ("1.0",)), "1.0": (12, ("2",))}
    touched = {(a.tensor, a.dim) for a in found["0.0"].tensors}
    assert touched == {
        *(("0.0.weight", 0), ("0.0.bias", 0), ("1.0.weight", 1)),
        *((f"0.1.{t}", 0) for t in ("weight", "bias", "running_mean", "running_var")),
    }


def test_residual_stream_is_one_group_read_by_all_its_convs():
    found = groups(Residual())
    assert found["stem.0"].readers == ("a.0", "c.0", "down")
    assert ("b.weight", 0) in {(a.tensor, a.dim) for a in found["stem.0"].tensors}
    assert found["c.0"].readers == ("head",)


def test_concat_keeps_its_parts_apart_and_repeats_have_two_slots():
    found = groups(Concat())
    assert [found[n].size for n in ("a.0", "up")] == [6, 4]
    slots = {a.tensor: a.index for a in found["up"].reads}
    assert slots["c.0.weight"].tolist() == [[6], [7], [8], [9]]
    assert slots["d.0.weight"].tolist() == [[6, 16], [7, 17], [8, 18], [9, 19]]


def test_a_grouped_conv_loses_whole_groups_where_that_leaves_more_to_choose_from():
    found = groups(Grouped())
    index = {(a.tensor, a.dim): a.index.tolist() for a in found["a.0"].tensors}
    assert found["a.0"].size == 4 and "b.0" not in found
    assert index["a.0.weight", 0] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert index["b.0.weight", 0] == index["c.weight", 1] == [[4 * j + i for i in range(4)] for j in range(4)]


def test_groups_of_a_grouped_conv_go_in_step():
    class Functional(Grouped):
        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.c(nn.functional.conv2d(self.a(x), self.w, padding=1, groups=4)))

    net = Functional()
    net.w = nn.Parameter(torch.randn(16, 3, 3, 3))
    found = groups(net)
    assert found["a.0"].size == 3 and found["w"].size == 4
    index = {(a.tensor, a.dim): a.index for a in found["w"].tensors}
    assert index["w", 0].tolist() == [[j, j + 4, j + 8, j + 12] for j in range(4)]


def test_chunk_joins_the_halves():
    index = {(a.tensor, a.dim): a.index for a in groups(Chunk())["a.0"].tensors}
    assert index["a.0.weight", 0].tolist() == [[j, j + 6] for j in range(6)]


def test_reused_module_and_tied_parameter_carry_the_channels_of_both_uses():
    assert groups(Reused())["stem.0"].readers == ("shared.0", "head")
    tied = groups(Tied())
    assert list(tied) == ["stem.0"] and tied["stem.0"].readers == ("a", "head")


def test_a_mask_of_one_channel_joins_nothing():
    graph = trace_channels(Mask(), X)
    assert {g.name: g.size for g in graph.groups} == {"a.0": 32}
    assert "mask.weight" not in {a.tensor for a in graph["a.0"].tensors}
    assert [f.reason for f in graph.frozen if f.name == "mask"] == [
        "one channel is broadcast over many in mul in forward"
    ]


def test_parameters_outside_of_layers_go_with_their_channels():
    for net, group, axis in (
        (ChannelScale(), "a.0", ("scale", 0)),
        (FunctionalConv(), "a.0", ("weight", 1)),
        (FunctionalConv(), "weight", ("weight", 0)),
        (LearnedSlopes(), "0", ("1.weight", 0)),
    ):
        assert axis in {(a.tensor, a.dim) for a in groups(net)[group].tensors}


def test_zero_padded_channels_stay_and_the_rest_of_the_stream_goes():
    graph = trace_channels(OptionA(), X)
    assert graph["stem.0"].size == 8 and ("b.weight", 0) in {(a.tensor, a.dim) for a in graph["stem.0"].tensors}
    assert next((f.name, f.channels, "channels that must stay" in f.reason) for f in graph.frozen) == ("b", 8, True)


def test_what_is_only_there_in_training_is_traced_too():
    assert groups(AuxiliaryHead())["a.0"].readers == ("b.0", "aux")


def test_unknown_operators_freeze_and_are_named():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = self.a(x).flatten(2)
            y = (y @ y.transpose(1, 2)) @ y
            return self.b(y.unflatten(2, (10, 10)))

    graph = trace_channels(Attention(), X)
    assert not graph.groups
    assert [(f.name, f.channels) for f in graph.frozen] == [("a", 8), ("b", 4)]
    assert "matmul in forward mixes channels" in graph.frozen[0].reason


def test_layer_norm_over_channels_freezes_them():
    net = nn.Sequential(nn.Conv2d(3, 8, 12), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = trace_channels(net, X)
    assert [g.name for g in graph.groups] == ["3"]
    assert graph.frozen[0].reason == "layer_norm in 2 mixes channels"


def test_a_literal_slice_of_channels_freezes_but_one_of_pixels_does_not():
    class Sliced(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.dim, self.a, self.b = dim, conv(3, 8), nn.LazyConv2d(4, 1)

        def forward(self, x):
            return self.b(self.a(x).narrow(self.dim, 2, 4))

    for dim, free in ((1, False), (2, True)):
        net = Sliced(dim)
        net(X)
        graph = trace_channels(net, X)
        assert bool(graph.groups) is free
        assert free or "takes channels at fixed positions" in graph.reasons()


@pytest.mark.parametrize("pattern", ["1.0", "1.*", nn.BatchNorm2d])
def test_ignore_by_name_glob_and_type(pattern):
    graph = trace_channels(Chain(), X, ignore=[pattern])
    assert not graph.groups
    assert any(f.reason == f"ignored by {getattr(pattern, '__name__', pattern)!r}" for f in graph.frozen)


def test_ignore_that_matches_nothing_is_an_error():
    with pytest.raises(gdp.GDPError, match=r"'layer9\.\*' matches no module of Chain.*children are: 0, 1, 2"):
        trace_channels(Chain(), X, ignore=["layer9.*"])
    with pytest.raises(gdp.GDPError, match="to be a list"):
        trace_channels(Chain(), X, ignore="0")


def test_control_flow_on_data_is_refused_with_the_way_out():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else self.a(-x)

    with pytest.raises(gdp.GDPError, match=r"torch.export can't follow Branches\.forward.*module="):
        trace_channels(Branches(), X)


def test_wrong_example_input_is_refused():
    with pytest.raises(gdp.GDPError, match=r"forward itself fails on the example input of shapes \[\(2, 4, 12, 12\)\]"):
        trace_channels(Chain(), torch.randn(2, 4, 12, 12))


def test_tracing_leaves_no_trace():
    net = AuxiliaryHead().train()
    net.b.eval()
    state, modes, rng = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    trace_channels(net, X)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "googlenet"])
def test_every_channel_is_in_one_group_or_frozen(name):
    net = torchvision.models.get_model(name, weights=None)
    graph = trace_channels(net, torch.zeros(1, 3, 96, 96))
    seen: dict = {}
    for group in graph.groups:
        for axis in group.tensors:
            for i in axis.index.flatten().tolist():
                assert seen.setdefault((axis.tensor, axis.dim, i), group.name) == group.name
    layers = {
        n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and getattr(m, "groups", 1) == 1
    }
    free = sum(1 for tensor, dim, _ in seen if dim == 0 and tensor in {f"{n}.weight" for n in layers})
    assert free + sum(f.channels for f in graph.frozen) == sum(len(m.weight) for m in layers.values())


class WithUnread(nn.Module):
    """A head that is there for other callers, a parameter that nobody reads, and a layer that trains alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.neck, self.spare, self.aux = nn.Conv2d(8, 2, 1), nn.Parameter(torch.zeros(3)), nn.Conv2d(8, 2, 1)
        self.tied = nn.Conv2d(3, 8, 3)
        self.tied.weight = self.a.weight

    def forward(self, x):
        x = self.a(x)
        return (self.b(x), self.aux(x)) if self.training else self.b(x)


def test_parameters_that_forward_never_reads_are_known():
    unread = gdp.trace(WithUnread(), torch.randn(1, 3, 8, 8)).unread
    assert unread == {"neck.weight", "neck.bias", "spare", "tied.bias"}
    assert gdp.trace(WithUnread(), torch.randn(1, 3, 8, 8), ignore=["neck"]).unread == {"spare", "tied.bias"}
