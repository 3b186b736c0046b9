"""Names of methods."""

import pytest

import gdp
from gdp import Annealed, GDPCallback


@pytest.mark.parametrize(
    "method", ["foo", "Polar", "", 3, None, True, Annealed, {"class_path": "gdp.Annealed"}], ids=str
)
def test_what_is_no_method_is_refused_at_once(method):
    with pytest.raises(gdp.GDPError, match=r"'polar' or 'annealed', or gdp\.Polar\(\.\.\.\), gdp\.Annealed\(\.\.\.\)"):
        GDPCallback(0.5, method=method)
