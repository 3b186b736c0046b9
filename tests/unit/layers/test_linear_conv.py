import pytest
import torch
from torch import nn

import gdp
from gdp.layers import LinearConv2d, correlation_loss
from gdp.utils import count_flops

X = torch.randn(2, 6, 9, 10)
CONVS = [
    {"padding": 1},
    {"stride": 2, "padding": (1, 0), "dilation": (1, 2)},
    {"padding": "same", "padding_mode": "reflect", "bias": False},
]


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_filters_are_the_primary_ones_and_their_combinations():
    """By hand: B = (1, 2), (0, 1); C = (3, -1): the third filter is 3 (1, 2) - (0, 1) = (3, 5)."""
    layer = LinearConv2d(2, 3, 1, ratio=2 / 3)
    layer.primary.weight.data = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    layer.coefficients.weight.data = torch.tensor([[3.0, -1.0]]).view(1, 2, 1, 1)
    layer.primary.bias.data, layer.coefficients.bias.data = torch.tensor([1.0, 2.0]), torch.tensor([10.0])
    assert layer.weight.flatten(1).tolist() == [[1, 2], [0, 1], [3, 5]]
    assert layer.bias.tolist() == [1, 2, 10 + 3 * 1 - 2]
    x = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    assert layer(x).flatten().tolist() == [4, 3, 19]


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("size", [3, (1, 2)], ids=str)
def test_fold_computes_the_same_to_float_rounding(options, size):
    layer = LinearConv2d(6, 10, size, ratio=0.3, **options).double()
    assert layer.primary.out_channels == 3 and (layer.in_channels, layer.out_channels) == (6, 10)
    plain = layer.fold()
    assert type(plain) is nn.Conv2d and worst(plain(X.double()), layer(X.double())) < 1e-14


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_filters_that_are_combinations_are_met_exactly(options):
    conv = nn.Conv2d(6, 10, 3, **options).double()
    conv.weight.data[5:] = (torch.randn(5, 5).double() @ conv.weight.data[:5].flatten(1)).view(5, 6, 3, 3)
    assert worst(LinearConv2d.of(conv)(X.double()), conv(X.double())) < 1e-10


def test_the_start_is_close_to_the_best_that_there_is_and_its_coefficients_stay_small():
    conv = nn.Conv2d(6, 16, 3)
    filters = conv.weight.detach().flatten(1).double()
    layer = LinearConv2d.of(conv)
    error = (layer.weight.detach().flatten(1) - filters).norm()
    best = torch.linalg.svdvals(filters)[8:].norm()  # Eckart and Young
    on_first = torch.linalg.lstsq(filters[:8].T, filters[8:].T).solution.T @ filters[:8] - filters[8:]
    assert best <= error < 1.02 * best < on_first.norm() < 1.5 * error
    assert layer.coefficients.weight.abs().max() < 5


def test_zero_and_equal_filters_are_no_obstacle():
    conv = nn.Conv2d(6, 8, 3)
    conv.weight.data[:2], conv.weight.data[3] = 0, conv.weight.data[2]
    assert LinearConv2d.of(conv).weight.isfinite().all()
    conv.weight.data = torch.randn(8, 6, 3, 3) * (torch.rand(8, 6, 3, 3) < 0.03)
    values = torch.cat([p.flatten() for p in LinearConv2d.of(conv).parameters()]).abs()
    assert values[values > 0].min() > 1e-15  # no denormal numbers, which are slow
    conv.weight.data.zero_()
    assert LinearConv2d.of(conv).weight.abs().max() == 0


def test_it_costs_as_many_multiply_adds_per_position_as_it_has_weights_and_none_are_saved_once_folded():
    layer = LinearConv2d(6, 10, 3, padding=1, bias=False)
    weights = 5 * 6 * 9 + 5 * 5
    assert sum(p.numel() for p in layer.parameters()) == weights
    assert count_flops(layer, X) == 2 * 90 * weights
    assert count_flops(layer.fold(), X) == 2 * 90 * 10 * 6 * 9


def test_coefficients_begin_in_the_range_of_the_public_code():
    values = LinearConv2d(6, 64, 3).coefficients.weight.abs()
    assert 0.09 < values.max() <= 0.1


def test_the_correlation_loss_is_that_of_corrcoef():
    filters = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    by_torch = (torch.corrcoef(filters.flatten(1)) - torch.eye(5)).abs().sum()
    loss = correlation_loss(filters)
    assert worst(loss, by_torch) < 1e-12
    assert worst(*(torch.autograd.grad(f, filters)[0] for f in (loss, by_torch))) < 1e-10


def test_the_correlation_of_filters_without_variance_is_none():
    filters = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 2.0], [2.0, 1.0]], requires_grad=True)
    loss = correlation_loss(filters)
    loss.backward()
    assert loss.item() == pytest.approx(2) and filters.grad.isfinite().all()
    assert correlation_loss(torch.randn(1, 4)).item() == 0


@pytest.mark.parametrize("ratio", [0, 1, -0.5, float("nan"), "half", True])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(gdp.GDPError, match=r"`ratio` to be a number between 0 and 1, both excluded, but got"):
        LinearConv2d(3, 8, 3, ratio=ratio)


def test_one_filter_and_groups_are_refused():
    with pytest.raises(gdp.GDPError, match="at least 2 filters"):
        LinearConv2d(3, 1, 3)
    with pytest.raises(gdp.GDPError, match="no groups"):
        LinearConv2d(4, 8, 3, groups=2)
