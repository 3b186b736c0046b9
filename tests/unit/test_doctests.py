"""The examples in docstrings run, those of every module that has some."""

import doctest
import importlib
import pkgutil

import pytest
from helpers.paths import ROOT

import gdp
import lightning_modules


def modules_with_examples() -> list[str]:
    """Names of all modules, those of sub-packages included, in whose docstrings an example stands."""
    found = []
    for package in (gdp, lightning_modules):
        inside = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for name in [package.__name__, *(module.name for module in inside)]:
            tests = doctest.DocTestFinder().find(importlib.import_module(name))
            if any(test.examples for test in tests):
                found.append(name)
    return found


MODULES = modules_with_examples()


def test_every_file_with_an_example_is_found():
    assert len(MODULES) >= 10
    files = [path for name in ("gdp", "lightning_modules") for path in (ROOT / name).rglob("*.py")]
    with_examples = {path.relative_to(ROOT).with_suffix("").parts for path in files if ">>> " in path.read_text()}
    assert sorted(MODULES) == sorted(".".join(parts).removesuffix(".__init__") for parts in with_examples)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0
