"""The house: folders import one way, through their packages; no circle; files stay small."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from statistics import median
from types import MappingProxyType

import pytest
from helpers.paths import ROOT, TESTS

import gdp

# from the top: every folder imports only from those above it
FOLDERS = ["utils", "graph", "report", "tracing", "selection", "gates", "methods", "surgery", "pruning", "saving"]
FOLDERS += ["lightning", "cli"]
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
PRESENT = [name for name in FOLDERS if (ROOT / "gdp" / name).is_dir()]


def sources() -> dict[str, str]:
    """Every module of gdp by its dotted name; a package under its own."""
    files = {path: path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "gdp").rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path.read_text() for path, parts in files.items()}


def imports(name: str, source: str, modules: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[int, str]]:
    """Line and module of every import, those under TYPE_CHECKING and inside functions included.

    `from package import module` is an import of the module, unless the package itself gives something of that name.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            given = names_given(modules.get(str(node.module), ""))
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield node.lineno, inside if inside in modules and alias.name not in given else str(node.module)


def names_given(source: str) -> set[str]:
    """What a module imports by name, and so gives to others."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes for alias in node.names}


def folder(module: str) -> str:
    """The folder of gdp that a module lies in; empty for gdp itself and for errors."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else ""


def wrong_imports(modules: dict[str, str]) -> list[str]:
    """What breaks a rule, as `module:line: what`."""
    found, edges = [], {}
    for name, source in modules.items():
        mine = folder(name)
        for line, target in imports(name, source, modules):
            where, top = f"{name}:{line}: ", target.split(".")[0]
            if top in LIGHTNING and mine != "lightning":
                found.append(f"{where}{target} is for gdp.lightning alone")
            if top == "torchvision":
                found.append(f"{where}{target} is no requirement of gdp")
            if top != "gdp":
                continue
            edges.setdefault(name, set()).add(target)
            theirs = folder(target)
            if name == "gdp" or theirs == mine or target == "gdp.errors":
                continue
            if not theirs or not mine or FOLDERS.index(theirs) > FOLDERS.index(mine):
                found.append(f"{where}{target} is not above {mine or name}")
            elif target != f"gdp.{theirs}":
                found.append(f"{where}{target} is inside another folder; import from gdp.{theirs}")
    return found + [f"circle: {' -> '.join(circle)}" for circle in circles(edges)]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Circles of modules that import each other."""
    found, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(edges.get(name, ())):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return found


def test_folders_import_one_way():
    modules = sources()
    assert len(modules) > 80 and {folder(name) for name in modules} - {""} == set(PRESENT)
    assert {name for name in modules if not folder(name)} == {"gdp", "gdp.errors"}, (
        "a folder that has no place in FOLDERS"
    )
    assert wrong_imports(modules) == []


WRONG = {
    "from below": ("gdp.utils.names", "from gdp.graph import Axis", "gdp.graph is not above utils"),
    "from gdp itself": ("gdp.graph.flop_model", "import gdp", "gdp is not above graph"),
    "under TYPE_CHECKING": (
        "gdp.gates.gates",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gdp.pruning import Pruner",
        "gdp.pruning is not above gates",
    ),
    "inside a function": (
        "gdp.report.report",
        "def f():\n    from gdp.surgery import cut",
        "gdp.surgery is not above report",
    ),
    "from inside a folder": (
        "gdp.pruning.pruner",
        "from gdp.gates.gates import Gates",
        "gdp.gates.gates is inside another folder",
    ),
    "lightning": ("gdp.pruning.pruner", "import pytorch_lightning as pl", "pytorch_lightning is for gdp.lightning"),
    "torchvision": ("gdp.lightning.run", "from torchvision import ops", "torchvision is no requirement"),
    "lightning's utilities": (
        "gdp.saving.checkpoint",
        "def f():\n    from lightning_utilities.core import imports",
        "lightning_utilities.core is for gdp.lightning",
    ),
    "a circle": ("gdp.gates.functions", "from gdp.gates.gates import Gates", "circle: gdp.gates.functions -> "),
}


@pytest.mark.parametrize("module, source, complaint", WRONG.values(), ids=WRONG)
def test_a_wrong_import_is_reported(module, source, complaint):
    modules = sources()
    assert module in modules
    found = wrong_imports(modules | {module: modules[module] + "\n" + source + "\n"})
    assert found and any(complaint in one for one in found), found


def test_packages_say_what_is_public():
    packages = [".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "gdp").rglob("__init__.py")]
    assert {"gdp", "gdp.tracing.rules"} < set(packages)
    for name in packages:
        package = importlib.import_module(name)
        assert package.__all__ and all(hasattr(package, public) for public in package.__all__), name
    assert [name for name in dir(gdp) if not name.startswith("__")] == sorted([*gdp.__all__, *PRESENT])


def test_files_are_small():
    lines = {name: len(source.splitlines()) for name, source in sources().items()}
    assert max(lines.values()) <= 300, max(lines, key=lines.get)
    assert median(lines.values()) <= 150


def test_test_modules_stand_alone():
    files = list(TESTS.rglob("test_*.py"))
    names = {path.stem for path in files}
    assert len(names) == len(files), "two test modules have one name"
    for path in files:
        taken = {module.split(".")[-1] for _, module in imports(path.stem, path.read_text())} & names
        assert not taken, f"{path.name} imports {taken}"
