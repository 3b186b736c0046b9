import doctest
import importlib
import pkgutil

import pytest

import gdp
import lightning_modules

MODULES = [
    f"{package.__name__}.{m.name}"
    for package in (gdp, lightning_modules)
    for m in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
