"""The examples in docstrings run, those of every module that has some."""

import doctest
import importlib
import pkgutil

import pytest

import gdp
import lightning_modules


def modules_with_examples() -> list[str]:
    """Names of all modules, those of sub-packages included, in whose docstrings an example stands."""
    found = []
    for package in (gdp, lightning_modules):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.name))
            if any(test.examples for test in tests):
                found.append(module.name)
    return found


MODULES = modules_with_examples()


def test_examples_are_found():
    assert len(MODULES) >= 10 and {"gdp.tracing.trace", "gdp.surgery.remove", "gdp.gates.functions"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0
