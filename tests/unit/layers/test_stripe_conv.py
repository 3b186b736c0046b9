import pytest
import torch
from helpers.layered import with_holes
from torch import nn

import gdp
from gdp.layers import ShiftedConv2d, StripeConv2d
from gdp.utils import count_flops

X = torch.randn(2, 5, 11, 12)
OPTIONS = [
    {"padding": 1},
    {"padding": "same", "dilation": 2},
    {"stride": 2, "padding": (1, 0), "dilation": (1, 2)},
    {"padding": 1, "padding_mode": "reflect", "bias": False},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": "valid", "stride": 3},
]
SIZES = [3, (1, 3), 4]


def holed(size=3, **options) -> StripeConv2d:
    return with_holes(StripeConv2d(5, 7, size, **options))


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_every_stripe_is_scaled_by_its_entry():
    """By hand: a 1x2 kernel (2, 3) with the skeleton (0.5, 0) reads the left pixel only, times 1."""
    layer = StripeConv2d(1, 1, (1, 2), bias=False)
    layer.weight.data = torch.tensor([2.0, 3.0]).view(1, 1, 1, 2)
    layer.skeleton.data = torch.tensor([0.5, 0.0]).view(1, 1, 2)
    x = torch.tensor([5.0, 7.0, 11.0]).view(1, 1, 1, 3)
    assert layer(x).flatten().tolist() == [5, 7]
    shifted = ShiftedConv2d.of(layer)
    assert shifted.counts == {(0, 0): 1} and shifted(x).flatten().tolist() == [5, 7]


def test_it_begins_as_the_conv_with_its_parameters():
    conv = nn.Conv2d(5, 7, 3, padding=1)
    layer = StripeConv2d.of(conv)
    assert torch.equal(layer(X), conv(X)) and layer.weight is conv.weight and layer.bias is conv.bias
    assert layer.skeleton.shape == (7, 3, 3) and bool((layer.skeleton == 1).all())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_forms_compute_the_same_and_fvcore_counts_the_stripes(options, size):
    layer = holed(size, **options).double()
    x = X.double()
    expected, shifted = layer(x), ShiftedConv2d.of(layer)
    for form in (layer.fold(), shifted, shifted.fold()):
        assert worst(form(x), expected) < 1e-13
    assert type(layer.fold()) is type(shifted.fold()) is nn.Conv2d
    assert worst(shifted(x[0]), expected[0]) < 1e-13
    stripes, positions = int((layer.skeleton != 0).sum()), expected.shape[-2] * expected.shape[-1]
    assert sum(shifted.counts.values()) == stripes
    assert count_flops(shifted, x) == 2 * stripes * 5 * positions


def test_with_all_stripes_it_costs_what_the_conv_costs():
    layer = StripeConv2d(5, 7, 3, padding=1)
    assert count_flops(ShiftedConv2d.of(layer), X) == count_flops(layer, X) == count_flops(layer.fold(), X)


def test_a_layer_that_has_lost_all_stripes_keeps_one_of_zeros():
    layer = StripeConv2d(5, 7, 3)
    layer.skeleton.data.zero_()
    shifted = ShiftedConv2d.of(layer)
    assert shifted.counts == {(0, 0): 1} and torch.equal(shifted(X), layer(X))


def test_entries_below_the_threshold_are_set_to_zero():
    layer = StripeConv2d(1, 1, (1, 4))
    layer.skeleton.data = torch.tensor([[[0.0099, -0.0099, 0.01, -1.0]]])
    layer.close()
    assert layer.skeleton.flatten().tolist() == pytest.approx([0, 0, 0.01, -1])
    layer.close(0.5)
    assert layer.skeleton.flatten().tolist() == [0, 0, 0, -1]
    with pytest.raises(gdp.GDPError, match="`threshold` to be a finite number, at least 0"):
        layer.close(-1)


@pytest.mark.parametrize("move", [lambda m: m.bfloat16(), lambda m: m.double()], ids=["bfloat16", "double"])
def test_shifted_convs_follow_a_change_of_type(move):
    shifted = move(ShiftedConv2d.of(holed(padding=1)))
    x = X.to(shifted.bias.dtype)
    assert shifted(x).dtype == shifted.fold()(x).dtype == x.dtype


def test_shifted_convs_run_under_autocast():
    shifted = ShiftedConv2d.of(holed(padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert shifted(X).dtype == shifted.fold()(X).dtype == torch.bfloat16


def test_groups_are_refused():
    with pytest.raises(gdp.GDPError, match="no groups"):
        StripeConv2d(4, 8, 3, groups=2)


def test_positions_that_all_filters_have_are_pruned_on_both_sides():
    first, second = (StripeConv2d(n, m, 3, padding=1) for n, m in ((3, 8), (8, 6)))
    for layer in (first, second):
        layer.skeleton.data[:, ::2, ::2] = 0  # a cross is left
    net = nn.Sequential(ShiftedConv2d.of(first), nn.ReLU(), ShiftedConv2d.of(second), nn.ReLU(), nn.Conv2d(6, 2, 1))
    graph = gdp.trace(net, torch.randn(2, 3, 8, 8))
    assert [(group.size, len(group.readers)) for group in graph.groups] == [(8, 5), (6, 1)]
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, [0, 2])
    report = gdp.remove(net, graph, gates)
    assert report.flops_after == report.flops_predicted and report.max_rel < 1e-6
    assert net[0].out_channels == 6 and net[2].fold().weight.shape == (4, 6, 3, 3)
