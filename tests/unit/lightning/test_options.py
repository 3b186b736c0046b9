"""Arguments of GDPCallback that are out of range."""

import pytest

import gdp
from gdp import GDPCallback


def test_blocks_is_a_yes_or_no():
    with pytest.raises(gdp.GDPError, match="Expected `blocks` to be True or False, but got 'layer1'"):
        gdp.GDPCallback(target_flops=0.5, blocks="layer1")


@pytest.mark.parametrize("target", [0, -0.1, 1.5, "40%", None, float("nan"), True])
def test_a_target_that_is_no_fraction_is_refused_at_once(target):
    with pytest.raises(gdp.GDPError, match=r"fraction of FLOPs that remains, in \(0, 1\], got"):
        GDPCallback(target_flops=target)
