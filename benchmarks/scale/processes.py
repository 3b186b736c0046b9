"""Measure what gdp communicates: count a DDP training on 1 and 2 processes, and its bytes on paper for more."""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gdp
from benchmarks.common.markdown import table
from benchmarks.scale.traffic import Traffic

RANKS, PAPER = (1, 2), (2, 8, 64, 1024, 4096)  # measured, and on paper
BATCH, CLASSES = 32, 10
SELECTED_EVERY = max(1, gdp.Polar().closing // 10)  # steps from one choice of channels to the next, inside the window
BLOCK = math.lcm(SELECTED_EVERY, gdp.Polar().gradient_interval)  # steps after which every part came equally often


def train(rank: int, ranks: int, steps: int, folder: str) -> None:
    """Train a dense and a gated ResNet-18 in turns, one step each, by DDP; write what was counted and timed.

    Args:
        rank: of this process.
        ranks: how many there are.
        steps: of training.
        folder: for the file by which processes meet, and for what each has counted.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks{ranks}", rank=rank, world_size=ranks)

    # the two networks
    torch.manual_seed(0)
    dense = torchvision.models.resnet18(num_classes=CLASSES)
    gated = copy.deepcopy(dense)
    graph = gdp.trace(gated, torch.randn(1, 3, 32, 32))
    pruner = gdp.Pruner(gated, graph, 0.5, steps)  # before DDP wraps it, as with the callback
    traffic, runs = Traffic(), {}
    for name, net in (("dense", dense), ("gdp", gated)):
        wrapped = DistributedDataParallel(net)
        # a lambda, as annotations of the hook are read
        wrapped.register_comm_hook(None, lambda group, bucket: traffic.reduce(group, bucket))
        runs[name] = wrapped, torch.optim.SGD(net.parameters(), 1e-3), pruner if name == "gdp" else None

    # a step of each in turns
    data = torch.Generator().manual_seed(rank)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with traffic:
        for number in range(steps):
            x, y = torch.randn(BATCH, 3, 32, 32, generator=data), torch.randint(0, CLASSES, (BATCH,), generator=data)
            for traffic.run in sorted(runs, reverse=number % 2 == 1):  # neither always runs on warm caches
                seconds[traffic.run].append(one_step(*runs[traffic.run], x, y))
    first, last_selection = pruner.window.start, pruner.window.last_selection
    record = {
        "seconds": {name: times[first - 1 : last_selection] for name, times in seconds.items()},
        "bytes": traffic.bytes,
        "calls": traffic.calls,
        "channels": len(pruner.gates.gate_param),
        "parameters": sum(p.numel() for p in dense.parameters()),
        "open": pruner.gates.gate_param.gt(0).tolist(),
    }
    Path(folder, f"ranks{ranks}-{rank}.json").write_text(json.dumps(record))
    dist.destroy_process_group()


def one_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, pruner: gdp.Pruner | None, x: Tensor, y: Tensor
) -> float:
    """Take one training step, and return its seconds.

    Args:
        net: wrapped by DDP.
        optimizer: of the network.
        pruner: None for the dense network.
        x: images.
        y: labels.
    """
    start = time.perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    if pruner is not None:
        pruner.watch()
    optimizer.step()
    if pruner is not None:
        pruner.step()
    return time.perf_counter() - start


def counted(steps: int) -> list[dict[str, Any]]:
    """Train on every number of ranks, and return what rank 0 counted; all ranks must have decided the same.

    Args:
        steps: of training.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for ranks in RANKS:
            torch.multiprocessing.spawn(train, (ranks, steps, folder), nprocs=ranks)
            records = [json.loads(Path(folder, f"ranks{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
            for key in ("open", "bytes", "calls"):
                assert all(record[key] == records[0][key] for record in records), key
            found.append(records[0])
    return found


def ratios(record: dict[str, Any]) -> list[float]:
    """Return seconds with gdp over seconds without, for blocks of steps inside the window.

    Args:
        record: what a rank has counted and timed.
    """
    dense, gated = record["seconds"]["dense"], record["seconds"]["gdp"]
    starts = range(0, len(dense) - BLOCK + 1, BLOCK)
    return [sum(gated[i : i + BLOCK]) / sum(dense[i : i + BLOCK]) for i in starts]


def on_paper() -> str:
    """Return a table of bytes per rank and step for a ResNet-50 at many ranks."""
    net = torchvision.models.resnet50(weights=None)
    gates = gdp.Pruner(net, gdp.trace(net, torch.randn(1, 3, 64, 64)), 0.4).gates
    gradients, channels = 4 * sum(p.numel() for p in net.parameters()), len(gates.gate_param)
    per_step, beside = round(channels / SELECTED_EVERY), 4 * len(gates.index)

    # ring all-reduce for gradients, a binomial tree for what rank 0 broadcasts
    rows = []
    for ranks in PAPER:
        ring, hops = round(2 * (ranks - 1) / ranks * gradients), math.ceil(math.log2(ranks))
        share = f"{(channels / SELECTED_EVERY + beside) / ring:.2%}"
        rows.append([ranks, ring, channels, hops * channels, per_step, beside, hops * beside, share])
    head = ["ranks", "gradients: each sends", "choice: each receives", "choice: rank 0 sends"]
    head += ["choices per step: each receives", "gates: each receives", "gates: rank 0 sends", "gdp / gradients"]
    return table(head, rows)


def chapter(steps: int) -> str:
    """Return the chapter on the number of processes.

    Args:
        steps: of training.
    """
    # tables of traffic and of seconds
    found = counted(steps)
    traffic, times = [], []
    for ranks, record in zip(RANKS, found, strict=True):
        for name in ("dense", "gdp"):
            size, calls = record["bytes"][name], record["calls"][name].get("choices", 0)
            means = [f"{size.get(sender, 0) / steps:,.1f}" for sender in ("gradients", "buffers", "choices")]
            traffic.append([ranks, name, *means, calls])
        dense, gated = (statistics.median(record["seconds"][name]) for name in ("dense", "gdp"))
        blocks = ratios(record)
        spread = f"{statistics.median(blocks):.3f} ({min(blocks):.3f} to {max(blocks):.3f})" if blocks else ""
        times.append([ranks, f"{dense:.4f}", f"{gated:.4f}", spread])

    # what gdp adds
    last, parameters = found[-1], found[-1]["parameters"]
    extra = sum(last["bytes"]["gdp"].values()) - sum(last["bytes"]["dense"].values())
    per_choice = last["bytes"]["gdp"]["choices"] / last["calls"]["gdp"]["choices"]
    return f"""## Against the number of processes

A ResNet-18 ({parameters:,} parameters, {last["channels"]:,} channels) on random images of 32x32, batch {BATCH} per
rank, trained by `DistributedDataParallel` over gloo for {steps} steps with the default schedule, without gdp and with
`gdp.Pruner`, one step of each in turns. All ranks closed the same channels.

Bytes handed to collectives, counted where they are called, mean per rank and step of the whole run:

{table(["ranks", "run", "gradients (DDP)", "buffers (DDP)", "choices (gdp)", "choices in the run"], traffic)}
- Gradients: {4 * parameters:,} bytes are 4 per parameter.
- gdp itself broadcasts a choice, {per_choice:,.0f} bytes: one per channel, every {SELECTED_EVERY} steps while channels
  are chosen.
- Inside the window all ranks agree once per step, in one byte, on whether loss and gradients are finite; the table
  does not count it.
- DDP broadcasts all buffers before every forward pass, and gates are buffers: 4 bytes for every channel that a layer
  reads. Nothing depends on it: every rank computes the same gates from the choice.
- Together {extra / steps:,.1f} bytes more per step, {extra / last["bytes"]["dense"]["gradients"]:.3%} of the gradients.

Seconds of a step while channels are chosen, median; ratio in blocks of {BLOCK} steps, median (and range). Ranks share
{os.cpu_count()} cores. On images this small gates look expensive, since they cost per weight and not per pixel;
what counts here is whether the ratio grows with the ranks.

{table(["ranks", "without gdp", "with gdp", "ratio"], times)}
### On paper: ResNet-50 on many ranks

**Computed, not measured.** Ring all-reduce for gradients: each rank sends `2 (N - 1) / N` times their size. Binomial
tree for broadcasts: each rank receives the data once, rank 0 sends it `log2 N` times. All in bytes. A choice is made
every {SELECTED_EVERY} steps inside the window and never outside; gates are sent at every step. The last column: what
a rank receives because of gdp, per step inside the window, over the gradients it sends. Every rank chooses for itself,
so the time that takes does not depend on their number.

{on_paper()}"""
