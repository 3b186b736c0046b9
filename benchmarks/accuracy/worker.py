"""Run jobs in a process of their own; it is spawned, and would not find a function of the package's `__main__`."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.accuracy.data import load
from benchmarks.accuracy.jobs import Job
from benchmarks.accuracy.training import SIZES
from benchmarks.accuracy.ways import run


def work(task: tuple[list[Job], argparse.Namespace]) -> list[dict[str, Any]]:
    """Run jobs one after the other, in a process of their own, and return their rows.

    Args:
        task: the jobs, and the options of the command line.
    """
    todo, options = task
    torch.set_num_threads(1)
    size = SIZES[options.size]
    data = load(options.data, size.side, size.images)
    rows = []
    for job in todo:
        began = time.perf_counter()
        row = {"size": options.size, **asdict(job), **run(job, data, size, options.cache, options.weights)}
        row["seconds"] = time.perf_counter() - began
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        rows.append(row)
    return rows
