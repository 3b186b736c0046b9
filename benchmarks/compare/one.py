"""One run of one method: what is left, how good it is, and what it has cost."""

from __future__ import annotations

import argparse
import time
from functools import partial
from statistics import mean
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

import gdp
from benchmarks.accuracy.data import Images, load
from benchmarks.accuracy.jobs import Job
from benchmarks.accuracy.training import SIZES, Size, fit
from benchmarks.accuracy.ways import LR, judged, network, suited, trained
from benchmarks.common.machine import cpu_model, version_of
from benchmarks.common.memory import forget_peak, process_peak
from benchmarks.compare.turns import ratio, seconds_in_turns

Task = tuple[Job, argparse.Namespace]  # with the options of the command line

# A block holds whole numbers of what methods do now and then: they read gradients every second step, choose channels
# every fifth, learn on held-out batches every fourth.
BLOCK = 20
BLOCKS = 6  # that are measured, after one that warms up


def machine() -> str:
    """Return what runs are made on, in a few words."""
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu_model()} CPU"
    return f"{chip}, torch {version_of('torch')}"


def measure(task: Task) -> dict[str, Any]:
    """Run a job, and return the columns of its row that are measured.

    Args:
        task: the job, and the options of the command line.
    """
    job, options = task
    torch.set_num_threads(1)
    size = SIZES[options.size]
    data = load(options.data, size.side, size.images)

    # the run itself
    began, before = time.perf_counter(), forget_peak()
    net, spent = trained(job, data, size, options.cache)
    seconds, peak = time.perf_counter() - began, process_peak()
    cost = {"peak_mib": peak / 2**20, "before_mib": before / 2**20, "seconds": seconds, "machine": machine()}
    found = judged(job, net, spent, data, size) | cost

    # its steps against dense ones; they cost the same with every seed
    return found | (step_cost(job, data, size) if job.seed == 0 and job.way != "uniform" else {})


def step_cost(job: Job, data: dict[str, Images], size: Size) -> dict[str, float]:
    """Return what a training step costs while gates close, against one of the dense network in the same minute.

    Nothing is cut meanwhile, and the window is open from the first step on.

    Args:
        job: of "dense", or of one of gdp's methods.
        data: what `load` returns.
        size: of the comparison.
    """
    steps = BLOCK * (1 + BLOCKS)
    pruning = []
    if job.way != "dense":
        method = gdp.methods.get(job.way)(start=0.0, end=1.0)
        pruning = [gdp.GDPCallback(job.target, method=method, shrink="end")]

    def train(net: nn.Module, callbacks: list[pl.Callback], timed: pl.Callback) -> None:
        torch.manual_seed(job.seed)
        # twice as many steps as are timed: near the end of the window no channels are chosen
        fit(net, data, suited(size, job.model), 2 * steps, LR[job.model], [timed, *callbacks])

    nets = [network(job, size, None) for _ in range(2)]
    # on one thread of a CPU, CPU time is what a clock shows if nothing else runs
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    mine, dense = seconds_in_turns([partial(train, nets[0], pruning), partial(train, nets[1], [])], steps, clock)
    found = ratio(mine, dense, BLOCK)
    return {
        "step_seconds": mean(mine[BLOCK:]),
        "dense_seconds": mean(dense[BLOCK:]),
        "step_ratio": found.median,
        "step_low": found.low,
        "step_high": found.high,
    }
