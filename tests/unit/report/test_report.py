"""Reports without a run."""

import pytest
import torch
from helpers.training import small_net

import gdp


def test_without_a_run_there_is_nothing_to_draw(tmp_path):
    net, x = small_net(), torch.zeros(1, 3, 12, 12)
    graph = gdp.trace(net, x, dry_run=False)
    reports = [gdp.check(net, x), gdp.remove(net, graph, gdp.insert_gates(net, graph))]
    for report in reports:
        with pytest.raises(gdp.GDPError, match=r"nothing to draw(.|\n)*Draw callback\.report after fit"):
            report.plot(tmp_path / "nothing.png")
    assert not list(tmp_path.iterdir())
