"""Options of the schedule."""

import pytest

import gdp


def test_schedules_are_checked():
    for wrong in ({"start": 0.6, "end": 0.5}, {"end": 1.2}, {"closing": 0}, {"eps": (1e-4, 0.1)}, {"memory": 1.0}):
        with pytest.raises(gdp.GDPError, match="Expected"):
            gdp.Polar(**wrong)
