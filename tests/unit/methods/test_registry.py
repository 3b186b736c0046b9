"""Names of methods."""

from pathlib import Path

import pytest

import gdp
from gdp import Annealed, GDPCallback


@pytest.mark.parametrize(
    "method", ["foo", "Polar", "", 3, None, True, Annealed, {"class_path": "gdp.Annealed"}], ids=str
)
def test_what_is_no_method_is_refused_at_once(method):
    with pytest.raises(gdp.GDPError, match=r"one of .*'annealed', .*'polar', .*gdp\.Polar\(.*\), or another gdp\.Prun"):
        GDPCallback(0.5, method=method)


def test_the_nearest_name_is_meant():
    with pytest.raises(gdp.GDPError, match=r"but got 'Polr'\. Did you mean 'polar'\?"):
        gdp.methods.get("Polr")


def test_every_name_gives_a_class_whose_defaults_make_a_method():
    assert {"polar", "annealed"} <= set(gdp.methods.names())
    for name in gdp.methods.names():
        assert isinstance(gdp.methods.get(name)(), gdp.PruningMethod)


def test_every_name_stands_in_the_document():
    text = (Path(gdp.__file__).parents[1] / "docs" / "method.md").read_text()
    assert [name for name in gdp.methods.names() if f"`{name}`" not in text and f'method="{name}"' not in text] == []
