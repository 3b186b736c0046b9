"""The house: folders import one way, through their packages; no circle; files stay small."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from statistics import median

import pytest
from helpers.paths import ROOT, TESTS

import gdp

# from the top: every folder imports only from those above it
FOLDERS = [
    "utils",
    "layers",
    "graph",
    "report",
    "tracing",
    "selection",
    "gates",
    "methods",
    "surgery",
    "pruning",
    "saving",
]
FOLDERS += ["lightning", "cli"]
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
PRESENT = [name for name in FOLDERS if (ROOT / "gdp" / name).is_dir()]


def sources() -> dict[str, str]:
    """Every module of gdp by its dotted name; a package under its own."""
    files = {path: path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "gdp").rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path.read_text() for path, parts in files.items()}


def imports(source: str, modules: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Line and module of every import, those under TYPE_CHECKING and inside functions included.

    `from package import module` is an import of the module, unless the package itself gives something of that name.
    Relative imports begin with a dot.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            given = names_given(modules.get(base, ""))
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                yield node.lineno, inside if inside in modules and alias.name not in given else base


@cache
def names_given(source: str) -> frozenset[str]:
    """What a module imports by name, and so gives to others."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    return frozenset(alias.name for node in nodes for alias in node.names)


def folder(module: str) -> str:
    """The folder of gdp that a module lies in; empty for gdp itself and for errors."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else ""


def file_of(module: str, modules: Mapping[str, str]) -> str:
    """The file of a module: that of a package, if others lie inside of it."""
    is_package = any(other.startswith(f"{module}.") for other in modules)
    return module.replace(".", "/") + ("/__init__.py" if is_package else ".py")


def complaint(importer: str, target: str) -> str | None:
    """What is wrong with one import by one module, if anything."""
    mine, theirs, top = folder(importer), folder(target), target.split(".")[0]
    if not top:
        return f"{target} is relative"
    if top in LIGHTNING and mine != "lightning":
        return f"{target} is for gdp.lightning alone"
    if top == "torchvision":
        return f"{target} is no requirement of gdp"
    if top != "gdp" or importer == "gdp" or target == "gdp.errors" or (mine and theirs == mine):
        return None
    if not theirs or not mine or FOLDERS.index(theirs) > FOLDERS.index(mine):
        return f"{target} is not above {mine or importer}"
    return None if target == f"gdp.{theirs}" else f"{target} is inside another folder; import from gdp.{theirs}"


def wrong_imports(modules: Mapping[str, str]) -> list[str]:
    """What breaks a rule, as `file:line: what`, for source texts by module name."""
    found, edges = [], {}
    for name, source in modules.items():
        for line, target in imports(source, modules):
            edges.setdefault(name, {}).setdefault(target, line)
            if what := complaint(name, target):
                found.append(f"{file_of(name, modules)}:{line}: {what}")
    for circle in circles(edges):
        line = edges[circle[0]][circle[1]]
        found.append(f"{file_of(circle[0], modules)}:{line}: circle: {' -> '.join(circle)}")
    return found


def circles(edges: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Circles of modules that import each other, the first module standing at both ends."""
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
    assert len(modules) > 80 and {name for name in modules if not folder(name)} == {"gdp", "gdp.errors"}
    assert {folder(name) for name in modules} - {""} == set(PRESENT)
    assert wrong_imports(modules) == []


# a house with two folders and Lightning; the wrong imports below are put into it
HOUSE = {
    "gdp": "from gdp.errors import GDPError\nfrom gdp.graph import Axis\nfrom gdp.lightning import GDPCallback",
    "gdp.errors": "class GDPError(Exception): ...",
    "gdp.utils": "from gdp.utils.names import names",
    "gdp.utils.names": "from gdp.errors import GDPError\ndef names(): ...",
    "gdp.graph": "from gdp.graph.axis import Axis",
    "gdp.graph.axis": "import torch\nfrom gdp.utils import names\nclass Axis: ...",
    "gdp.lightning": "from gdp.lightning.run import GDPCallback",
    "gdp.lightning.run": "import pytorch_lightning as pl\nfrom gdp.graph import Axis\nclass GDPCallback: ...",
}
TYPE_CHECKING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
WRONG = {
    "from below": (
        {"gdp.graph.axis": "import torch\nfrom gdp.saving import save_pruned"},
        ["gdp/graph/axis.py:2: gdp.saving is not above graph"],
    ),
    "from below, under TYPE_CHECKING": (
        {"gdp.graph.axis": f"{TYPE_CHECKING}from gdp.saving import save_pruned"},
        ["gdp/graph/axis.py:3: gdp.saving is not above graph"],
    ),
    "from below, inside a method": (
        {"gdp.graph.axis": "class Axis:\n    def f(self):\n        import gdp.report as r, gdp.saving"},
        ["gdp/graph/axis.py:3: gdp.report is not above graph", "gdp/graph/axis.py:3: gdp.saving is not above graph"],
    ),
    "from gdp itself": (
        {"gdp": "", "gdp.utils.names": "\nfrom gdp import GDPError"},
        ["gdp/utils/names.py:2: gdp is not above utils"],
    ),
    "into the errors": (
        {"gdp.errors": "from gdp.report import Report"},
        ["gdp/errors.py:1: gdp.report is not above gdp.errors"],
    ),
    "into an unknown folder": (
        {"gdp.other": "from gdp.other.part import part", "gdp.other.part": ""},
        ["gdp/other/__init__.py:1: gdp.other.part is not above gdp.other"],
    ),
    "a module inside another folder": (
        {"gdp.graph.axis": "from gdp.utils.names import names"},
        ["gdp/graph/axis.py:1: gdp.utils.names is inside another folder; import from gdp.utils"],
    ),
    "a module inside another folder, as a name": (
        {"gdp.utils": "", "gdp.graph": "\n\nfrom gdp.utils import names", "gdp.graph.axis": ""},
        ["gdp/graph/__init__.py:3: gdp.utils.names is inside another folder; import from gdp.utils"],
    ),
    "a circle of two": (
        {"gdp.graph.axis": "import torch\nimport gdp.graph.plan", "gdp.graph.plan": "import gdp.graph.axis"},
        ["gdp/graph/axis.py:2: circle: gdp.graph.axis -> gdp.graph.plan -> gdp.graph.axis"],
    ),
    "a circle through the folder's own package": (
        {"gdp.graph.axis": "def f():\n    from gdp.graph import Axis"},
        ["gdp/graph/__init__.py:1: circle: gdp.graph -> gdp.graph.axis -> gdp.graph"],
    ),
    "a circle of three": (
        {f"gdp.graph.{one}": f"\nfrom gdp.graph.{two} import f" for one, two in ("ab", "bc", "ca")},
        ["gdp/graph/a.py:2: circle: gdp.graph.a -> gdp.graph.b -> gdp.graph.c -> gdp.graph.a"],
    ),
    "a module of itself": (
        {"gdp.graph.axis": "from gdp.graph.axis import Axis"},
        ["gdp/graph/axis.py:1: circle: gdp.graph.axis -> gdp.graph.axis"],
    ),
    **{
        family: (
            {"gdp.graph.axis": f"{TYPE_CHECKING}from {family}.utilities import f"},
            [f"gdp/graph/axis.py:3: {family}.utilities is for gdp.lightning alone"],
        )
        for family in sorted(LIGHTNING)
    },
    "Lightning in gdp itself": (
        {"gdp": "import pytorch_lightning as pl"},
        ["gdp/__init__.py:1: pytorch_lightning is for gdp.lightning alone"],
    ),
    "torchvision": (
        {"gdp.lightning.run": "def f():\n    from torchvision import ops"},
        ["gdp/lightning/run.py:2: torchvision is no requirement of gdp"],
    ),
    "relative": (
        {"gdp.graph": "from .axis import Axis", "gdp.lightning": "\nfrom . import run"},
        ["gdp/graph/__init__.py:1: .axis is relative", "gdp/lightning/__init__.py:2: . is relative"],
    ),
}


def test_a_right_house_is_not_complained_of():
    assert wrong_imports(HOUSE) == []


@pytest.mark.parametrize("changed, complaints", WRONG.values(), ids=WRONG)
def test_a_wrong_import_is_reported_with_file_and_line(changed, complaints):
    assert wrong_imports(HOUSE | changed) == complaints


def test_a_wrong_import_is_found_in_gdp_as_it_is():
    modules = sources()
    name, line = "gdp.selection.ranking", len(modules["gdp.selection.ranking"].splitlines()) + 1
    modules[name] += "from gdp.pruning import Pruner\n"
    assert f"gdp/selection/ranking.py:{line}: gdp.pruning is not above selection" in wrong_imports(modules)


def test_packages_say_what_is_public():
    modules = sources()
    packages = [name for name in modules if file_of(name, modules).endswith("/__init__.py")]
    assert {"gdp", "gdp.tracing.rules", *(f"gdp.{name}" for name in PRESENT)} <= set(packages)
    for name in packages:
        package = importlib.import_module(name)
        missing = [public for public in package.__all__ if not hasattr(package, public)]
        assert package.__all__ and not missing, f"{name} lacks {missing}"
        assert len(set(package.__all__)) == len(package.__all__), name
    assert [name for name in dir(gdp) if not name.startswith("__")] == sorted([*gdp.__all__, *PRESENT])


def test_files_are_small():
    lines = {name: len(source.splitlines()) for name, source in sources().items()}
    assert {name: n for name, n in lines.items() if n > 300} == {}
    assert median(lines.values()) <= 150


def test_test_modules_stand_alone():
    files = {}
    for path in TESTS.rglob("test_*.py"):
        assert path.stem not in files, f"{path} and {files[path.stem]} have one name"
        files[path.stem] = path
    assert {"test_house", "test_callback"} <= set(files)
    for path in files.values():
        assert not words_in_imports(path.read_text()) & set(files), f"{path} imports another test module"


def words_in_imports(source: str) -> set[str]:
    """Every part of the names of modules, and every name, that a source text imports."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    written = [getattr(node, "module", None) or "" for node in nodes] + [a.name for node in nodes for a in node.names]
    return {part for name in written for part in name.split(".")}


@pytest.mark.parametrize(
    "source",
    ["import unit.test_a", "from unit import test_a", "from . import test_a", "def f():\n    from .test_a import g"],
)
def test_an_import_of_a_test_module_is_seen(source):
    assert "test_a" in words_in_imports(source)
