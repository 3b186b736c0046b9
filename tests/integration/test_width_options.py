"""`min_channels` and `round_to` in runs."""

import pytest
from helpers.training import Lit, loader, small_net, trainer

import gdp


@pytest.mark.parametrize("round_to, min_channels", [(4, 1), (8, 0.25)])
def test_the_callback_rounds_inside_the_selection(round_to, min_channels):
    class Wide(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net(16)

    pruning = gdp.GDPCallback(target_flops=0.5, round_to=round_to, min_channels=min_channels)
    trainer(pruning, epochs=4).fit(Wide(), loader())
    assert 0.4 < pruning.report.remaining <= 0.5
    assert all(kept % round_to == 0 and kept >= (n / 4 if round_to == 8 else 1) for _, kept, n in pruning.report.groups)
    assert any(kept < n for _, kept, n in pruning.report.groups)


def test_a_target_below_the_least_widths_is_refused_before_training():
    pruning = gdp.GDPCallback(target_flops=0.2, min_channels=0.9)
    with pytest.raises(gdp.GDPError, match=r"target_flops=0.2 is out of reach: 0\.9\d* of the FLOPs remains"):
        trainer(pruning).fit(Lit(), loader())
