"""Activations of every channel, where it is read first."""

import pytest
import torch
from helpers.shown import seen
from torch import nn

import gdp
from gdp.methods import Activation
from gdp.methods.maps import check_may_have_maps, feature_maps, first_shown, mean_over_entries

ALL = torch.ones(4, dtype=torch.bool)


def test_every_channel_is_shown_by_the_first_layer_that_reads_it():
    first, second = torch.rand(2, 3, 5, 5), torch.rand(2, 3, 5, 5)
    passed = seen((first, [1, 0, 4]), (second, [0, 2, 3]))  # 4: no channel
    (one, of_one), (two, of_two) = first_shown(passed.activations, ALL)
    assert one.tolist() == [1, 0] and torch.equal(of_one, first[:, :2])
    assert two.tolist() == [2, 3] and torch.equal(of_two, second[:, 1:])
    (asked, of_asked), *rest = first_shown(passed.activations, torch.tensor([False, False, True, False]))
    assert asked.tolist() == [2] and not rest and torch.equal(of_asked, second[:, 1:2])


def test_channels_may_lie_along_any_dimension_but_that_of_samples():
    last, unbatched = torch.rand(2, 5, 5, 3).half(), torch.rand(4, 5, 5)
    layers = [Activation("a", unbatched, 0, torch.arange(4)), Activation("b", last, 3, torch.tensor([2, 0, 4]))]
    ((channel, shown),) = first_shown(layers, ALL)
    assert channel.tolist() == [2, 0]
    assert torch.equal(shown, last[..., :2].permute(0, 3, 1, 2).float())
    assert [found.layer for found in feature_maps(layers, "This")] == ["b"]


def test_a_pass_without_feature_maps_is_an_error_that_names_the_method():
    with pytest.raises(gdp.GDPError, match=r"This compares .* none was given feature maps\. .* method='polar'"):
        feature_maps(seen((torch.rand(2, 3), [0, 1, 2])).activations, "This")


def test_linear_layers_may_read_the_maps_of_images():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(self.conv(x).permute(0, 2, 3, 1)).relu()).mean((1, 2))

    check_may_have_maps(gdp.trace(Last(), torch.rand(1, 3, 8, 8), dry_run=False), "This")


def test_what_is_not_finite_is_zero():
    ((_, shown),) = first_shown(seen((torch.tensor([[[[float("nan"), 1.0]]]]), [0])).activations, ALL)
    assert shown.tolist() == [[[[0.0, 1.0]]]]


def test_a_channel_with_several_entries_gets_their_mean():
    found = [(torch.tensor([0, 2, 0]), torch.tensor([1.0, 5.0, 3.0])), (torch.tensor([3]), torch.tensor([0.0]))]
    mean, is_shown = mean_over_entries(found, 4)
    assert mean.tolist() == [2.0, 0.0, 5.0, 0.0] and is_shown.tolist() == [True, False, True, True]
