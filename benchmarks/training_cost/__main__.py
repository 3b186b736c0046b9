"""Measure what a whole run costs: dense, gdp, gdp that cuts as it goes, and Torch-Pruning's recipe, side by side.

Prints a table and saves the run; `--write docs/training_cost.md RUN.json...` makes the document and its picture.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch

from benchmarks.common.machine import cpu_model, version_of
from benchmarks.training_cost.case import Case, load, synthetic
from benchmarks.training_cost.document import case_table, write
from benchmarks.training_cost.run import run

PACKAGES = ("torch", "torchvision", "torch-pruning", "fvcore")


def machine(device: str) -> dict[str, Any]:
    """Return what the run ran on.

    Args:
        device: "cpu" or "cuda".
    """
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": {package: version_of(package) for package in PACKAGES},
    }


def parse() -> argparse.Namespace:
    """Read the command line; every field of Case is an option."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    types = get_type_hints(Case)
    for field in fields(Case):
        name = "--" + field.name.replace("_", "-")
        if types[field.name] is bool:
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=types[field.name], default=field.default)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/ and test/<class>/; noise without it")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--save", type=Path, help="JSON file, written after every seed")
    parser.add_argument("--write", type=Path, nargs="+", metavar="FILE", help="the document, then saved runs")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    """Run the case with every seed, save, and print the table.

    Args:
        options: of the command line.

    Raises:
        ValueError: there are fewer than two batches or epochs.
    """
    case = Case(**{f.name: getattr(options, f.name) for f in fields(Case)})
    if case.steps < 2 or case.epochs < 2:
        raise ValueError(f"Expected two batches and two epochs at least, but got {case.steps} and {case.epochs}.")

    # images, and what is saved
    train = synthetic(case.images) if options.data is None else load(options.data, "train", case.images)
    test = None if options.data is None else load(options.data, "test", options.test_images)
    saved: dict[str, Any] = {
        "case": asdict(case),
        "test_images": 0 if test is None else len(test[1]),
        "machine": machine(case.device),
        "seeds": [],
    }

    # the runs
    for seed in range(options.seeds):
        for epoch, records in enumerate(run(case, seed, train, test), start=1):
            if epoch <= case.epochs:
                seconds = ", ".join(f"{name} {r['epochs'][-1]['steps']['wall']:.2f} s" for name, r in records.items())
                print(f"seed {seed}, epoch {epoch} of {case.epochs}: {seconds}", file=sys.stderr, flush=True)
        saved["seeds"].append(records)
        if options.save is not None:
            options.save.write_text(json.dumps(saved, indent=1))
    print(case_table(saved))


def main() -> None:
    """Measure, or write the document from saved runs."""
    options = parse()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if options.write is not None:
        document, *runs = options.write
        write(document, [json.loads(r.read_text()) for r in runs])
    else:
        measure(options)


if __name__ == "__main__":
    main()
