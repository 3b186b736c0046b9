"""setup.cfg allows no version older than those that `make test-oldest` runs the whole suite on."""

from configparser import ConfigParser

from helpers.paths import ROOT, TESTS
from packaging.requirements import Requirement

TOOLS = {"pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"}  # they run and read the suite, gdp runs without them


def test_lower_bounds_are_the_versions_that_the_suite_is_run_on():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    needed = [Requirement(line) for lines in listed for line in lines.splitlines() if line]
    bounds = {(need.name, str(need.specifier)) for need in needed if need.name not in TOOLS}
    run = [Requirement(line) for line in (TESTS / "oldest.txt").read_text().splitlines()]
    assert bounds == {(one.name, str(one.specifier).replace("==", ">=")) for one in run}
