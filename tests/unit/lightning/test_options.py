"""Arguments of GDPCallback that are out of range."""

import pytest
from jsonargparse import ArgumentParser

import gdp
from gdp import GDPCallback


def test_blocks_is_a_yes_or_no():
    with pytest.raises(gdp.GDPError, match="Expected `blocks` to be True or False, but got 'layer1'"):
        gdp.GDPCallback(target_flops=0.5, blocks="layer1")


@pytest.mark.parametrize("target", [0, -0.1, 1.5, "40%", None, float("nan"), True])
def test_a_target_that_is_no_fraction_is_refused_at_once(target):
    with pytest.raises(gdp.GDPError, match=r"fraction of FLOPs that remains, in \(0, 1\], got"):
        GDPCallback(target_flops=target)


@pytest.mark.parametrize("value", ["batch", 0, -1, True, 2.5, None])
def test_other_values_of_shrink_are_refused(value):
    with pytest.raises(gdp.GDPError, match="Expected `shrink` to be 'epoch', 'end' or a number of optimizer steps"):
        GDPCallback(0.4, shrink=value)


@pytest.mark.parametrize("value, expected", [("100", 100), ("epoch", "epoch"), ("end", "end")])
def test_shrink_keeps_its_type_on_a_command_line(value, expected):
    parser = ArgumentParser()
    parser.add_class_arguments(GDPCallback, "gdp")
    found = parser.parse_args(["--gdp.target_flops=0.4", f"--gdp.shrink={value}"]).gdp.shrink
    assert found == expected and type(found) is type(expected)
