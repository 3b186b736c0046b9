"""Run gdp on the networks of one suite or of all but the other packages', and write docs/coverage.md."""

from __future__ import annotations

import argparse
import inspect
import json
import resource
import time
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm  # noqa: F401  its import is no part of what is timed
import torch
from torch import nn

import gdp
from benchmarks.coverage.document import document
from benchmarks.coverage.measure import measure
from benchmarks.coverage.models import SUITES, names
from benchmarks.coverage.packages_document import packages_of, packages_section, with_packages
from benchmarks.coverage.peer import groups_of, measure_peer

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "runs" / "coverage"
DOCUMENT = ROOT / "docs" / "coverage.md"
TOOLS = ("gdp", "peer")
PACKAGES, OTHERS = SUITES[-1], SUITES[:-1]  # only the others run in the environment of `make setup`
MEMORY = {"gdp": 20, "peer": 12}  # GiB of address space; Torch-Pruning asks for more on some models
SECONDS = 600  # for everything about one model; then its process is ended


def warm_up() -> None:
    """Trace a tiny network with both tools first: imports are no part of what is timed."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2))
    gdp.trace(net.eval(), torch.zeros(1, 3, 4, 4))
    groups_of(net, torch.zeros(1, 3, 4, 4), [])


def reason(error: BaseException) -> str:
    """Return the first line of an error, with its type.

    Args:
        error: that ended a measurement.
    """
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {inspect.cleandoc(text[0]) if text else ''}"[:300]


def child(tool: str, which: str, name: str) -> None:
    """Measure one model in this process; its file holds what was known when it ended, however it did.

    Args:
        tool: one of TOOLS.
        which: the suite the model belongs to.
        name: its name there.
    """
    limit = MEMORY[tool] * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)  # again: after a fork torch makes its pool anew, and not safely from two threads at once
    last: dict[str, Any] = {"suite": which, "name": name}

    def note(record: dict[str, Any]) -> None:
        last.update(record)
        path(tool, which, name).write_text(json.dumps(last) + "\n")

    note({"step": "start"})
    start = time.perf_counter()
    try:
        last.update(measure(which, name, note) if tool == "gdp" else measure_peer(which, name, note))
    except BaseException as error:
        last["failed"] = reason(error)
    note({"seconds": time.perf_counter() - start})


def path(tool: str, which: str, name: str) -> Path:
    """Return the file for what a tool does on a model."""
    return RESULTS / f"{which}.{name}.{tool}.json"


def finished(tool: str, which: str, name: str) -> bool:
    """Return whether a model was measured already, up to the end or an error."""
    file = path(tool, which, name)
    return file.exists() and "seconds" in json.loads(file.read_text())


def run_apart(tool: str, which: str, name: str) -> dict[str, Any]:
    """Run `child` in a process of its own, and return the record of the model.

    So a crash, a hang or a lack of memory is that model's alone. The process is a fork of this one, which has imported
    everything and traced a tiny network: imports are no part of what is timed, and nothing of one model is left for the
    next.

    Args:
        tool: one of TOOLS.
        which: the suite the model belongs to.
        name: its name there.
    """
    file = path(tool, which, name)
    file.unlink(missing_ok=True)
    process = get_context("fork").Process(target=child, args=(tool, which, name))
    process.start()
    process.join(SECONDS)
    ended = f"the process ended with code {process.exitcode}"
    if process.is_alive():
        process.kill()
        process.join()
        ended = f"no result after {SECONDS} s"
    record = json.loads(file.read_text()) if file.exists() else {"suite": which, "name": name, "step": "start"}
    if "seconds" not in record:
        record |= {"failed": ended, "seconds": float(SECONDS)}
        file.write_text(json.dumps(record) + "\n")
    return record


SHOWN = [
    "failed",
    "check_s",
    "trace_s",
    "dry_run_s",
    "error",
    "opened",
    "input",
    "removable",
    "groups",
    "graph_s",
    "untrained",
]


def line(tool: str, record: dict[str, Any]) -> str:
    """Return what came out in a line for the terminal.

    Args:
        tool: one of TOOLS.
        record: what it measured.
    """
    shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in record.items() if k in SHOWN}
    if record.get("flops_cut") != record.get("flops_predicted"):
        shown["FLOPs"] = f"{record['flops_predicted']} predicted, {record['flops_cut']} counted"
    return f"{record['suite']} {record['name']} {tool} ({record['seconds']:.0f} s), {record['step']}: {shown}"


def records_of(suites: tuple[str, ...], tool: str) -> list[dict[str, Any]] | None:
    """Return the records of what a tool did on all models of some suites; None if gdp's are not complete.

    Args:
        suites: some of SUITES.
        tool: one of TOOLS.
    """
    models = [(which, name) for which in suites for name in names(which)]
    done = [path(tool, *model) for model in models if finished(tool, *model)]
    return None if tool == "gdp" and len(done) < len(models) else [json.loads(file.read_text()) for file in done]


def write(suites: tuple[str, ...]) -> None:
    """Write the document's part about some suites; the rest stays, and all of it where a model was not measured.

    Args:
        suites: PACKAGES alone, or any of the others, which stand in one part.
    """
    packages = suites == (PACKAGES,)
    ours = records_of(suites if packages else OTHERS, "gdp")
    if ours is None:
        print(f"{DOCUMENT.name} stays as it is: not every model of its part is measured. Run without --only.")
        return
    old = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    text = old if packages else document(ours, records_of(OTHERS, "peer") or [])
    DOCUMENT.write_text(with_packages(text, packages_section(ours) if packages else packages_of(old)))


def main() -> None:
    """Measure the models that are asked for, and write the document from their records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all", help=f"`all` is all but `{PACKAGES}`")
    parser.add_argument("--only", default="*", metavar="GLOB", help="names of the models to run")
    parser.add_argument("--tool", choices=[*TOOLS, "all"], default="all", help="`peer` is Torch-Pruning")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured already")
    parser.add_argument("--write", action="store_true", help="run nothing, only write the document")
    options = parser.parse_args()
    suites = OTHERS if options.suite == "all" else (options.suite,)
    RESULTS.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    warm_up()
    for which in suites if not options.write else ():
        for name in names(which):
            for tool in TOOLS[:1] if which == PACKAGES else TOOLS:
                asked = options.tool in (tool, "all") and fnmatchcase(name, options.only)
                if asked and not (options.resume and finished(tool, which, name)):
                    print(line(tool, run_apart(tool, which, name)), flush=True)
    write(suites)


if __name__ == "__main__":
    main()
