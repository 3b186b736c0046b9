"""Arguments of GDPCallback that are out of range."""

import pytest
import torch
from jsonargparse import ArgumentParser

from gdp import GDPCallback, GDPError


def test_blocks_is_a_yes_or_no():
    with pytest.raises(GDPError, match="Expected `blocks` to be True or False, but got 'layer1'"):
        GDPCallback(target_flops=0.5, blocks="layer1")


@pytest.mark.parametrize("target", [0, -0.1, 1.5, "40%", None, float("nan"), True])
def test_a_target_that_is_no_fraction_is_refused_at_once(target):
    with pytest.raises(GDPError, match=r"fraction of FLOPs that remains, in \(0, 1\], got"):
        GDPCallback(target_flops=target)


@pytest.mark.parametrize("value", ["batch", 0, -1, True, 2.5, None])
def test_other_values_of_shrink_are_refused(value):
    with pytest.raises(GDPError, match="Expected `shrink` to be 'epoch', 'end' or a number of optimizer steps"):
        GDPCallback(0.4, shrink=value)


@pytest.mark.parametrize("value, expected", [("100", 100), ("epoch", "epoch"), ("end", "end")])
def test_shrink_keeps_its_type_on_a_command_line(value, expected):
    parser = ArgumentParser()
    parser.add_class_arguments(GDPCallback, "gdp")
    found = parser.parse_args(["--gdp.target_flops=0.4", f"--gdp.shrink={value}"]).gdp.shrink
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("value", ["net", {"x": torch.ones(1)}, (), ("x", 3), 5, torch.ones(1, device="meta")], ids=str)
def test_an_example_without_numbers_is_refused(value):
    with pytest.raises(GDPError, match="Expected `example` to be what the network's forward takes"):
        GDPCallback(0.4, example=value)
