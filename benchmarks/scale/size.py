"""How gdp's costs grow with the size of the network and with the number of processes; writes docs/scale.md."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision
from benchmarks.scale_plot import STARTUP, TARGET, budgets, chapter
from torch import Tensor, nn

import gdp
from benchmarks import scale_ddp
from gdp.gates import insert_gates
from gdp.surgery import freeze_uncuttable_groups, freeze_untrained_readers

PATIENCE = 10.0  # seconds after which a figure is not measured once more
STREAM = 128  # channels of the residual stream: each costs less than the 1 % that a choice may leave unused
CHAINS = (  # convs, channels inside each block, channels of the stream
    *((100, inner, STREAM) for inner in (4, 40, 400, 4080)),  # ever wider
    *((convs, 40, STREAM) for convs in (10, 32, 316, 1000)),  # ever deeper
    (10, 8, STREAM),
    (1000, 400, STREAM),
    (100, 40, 16),  # dear channels
)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Block(nn.Module):
    """A residual block of two 1x1 convs: the cost of choosing does not depend on kernels, and 200 000 units fit."""

    def __init__(self, stream: int, inner: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(stream, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, stream, 1, bias=False),
            nn.BatchNorm2d(stream),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def chain(convs: int, inner: int, stream: int) -> nn.Module:
    """A network of this many convs: a stem, residual blocks on one stream, a head."""
    blocks = (Block(stream, inner) for _ in range((convs - 2) // 2))
    return nn.Sequential(nn.Conv2d(3, stream, 3, padding=1), *blocks, nn.Conv2d(stream, 4, 1)).eval()


@dataclass
class Costs:
    """What was measured on one network: `first` and `median` in seconds, `left` as a fraction of the FLOPs."""

    name: str
    clock: Callable[[], float]
    convs: int
    inner: int  # channels inside each block of a chain; 0: no chain
    stream: int
    weights: int
    groups: int = 0
    units: int = 0
    first: dict[str, float] = field(default_factory=dict)
    median: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)

    def take(self, what: str, call: Callable[[], object], repeats: int, after: Callable[[], object] = int) -> None:
        """Time a call; its first time counts as a warm-up if there are others. `after` is not timed."""
        times: list[float] = []
        while len(times) <= repeats and sum(times) < PATIENCE:
            start = self.clock()
            call()
            times.append(self.clock() - start)
            after()
        self.first[what], self.median[what] = times[0], statistics.median(times[1:] or times)

    def startup(self) -> float:
        """Seconds before the first training step of a process that has done nothing else yet."""
        return sum(self.first[what] for what in STARTUP[1:])


def measured(costs: Costs, net: nn.Module, x: Tensor, repeats: int) -> Costs:
    """All costs of one network."""
    costs.take("trace", lambda: gdp.trace(net, x), repeats)  # before anything that would warm it up
    costs.take("torch.export", lambda: torch.export.export(net, (x,), strict=False), repeats)
    traced = freeze_untrained_readers(net, gdp.trace(net, x))
    costs.take("preflight", lambda: freeze_uncuttable_groups(net, traced), repeats)
    graph = freeze_uncuttable_groups(net, traced)
    costs.groups, costs.units = len(graph.groups), sum(g.size for g in graph.groups)
    gates = []
    costs.take("gates", lambda: gates.append(insert_gates(net, graph)), repeats, lambda: gates.pop().withdraw())

    # gates move at every step, and channels are chosen when `_select` is called here, and never by `step`
    rarely = gdp.Polar(start=0.0, end=1.0, closing=10**6, gradient_interval=1)
    pruner = gdp.Pruner(net, graph, TARGET, 10**7, rarely)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    costs.take("watch", pruner.watch, 4 * repeats)
    lognormal = torch.randn(costs.units, generator=torch.Generator().manual_seed(0)).exp()
    per_channel = graph.flops.marginal(graph.flops.sizes)[pruner.gates.group_of]
    for kind, allowed in budgets():
        pruner.method_state["importance"] = lognormal if kind == "channel" else (lognormal * per_channel).float()
        costs.take(f"budget {kind} {allowed}", lambda allowed=allowed: pruner._select(allowed), 4 * repeats)
        assert pruner.keep_mask is not None
        kept = torch.bincount(pruner.gates.group_of[pruner.keep_mask], minlength=costs.groups)
        costs.left[kind] = graph.flops.count(kept) / graph.flops.dense  # the last one allowed is the target
    costs.median["budget"] = max(costs.median[f"budget {kind} {allowed}"] for kind, allowed in budgets())
    pruner.steps = 1
    costs.take("step", pruner.step, 4 * repeats)
    return costs


def networks(repeats: int, largest: int, clock: Callable[[], float]) -> list[Costs]:
    """ResNet-50, before anything else is warm, and the chains of at most so many units."""
    found: list[Costs] = []

    def add(name: str, net: nn.Module, x: Tensor, inner: int = 0, stream: int = 0) -> None:
        convs = sum(isinstance(m, nn.Conv2d) for m in net.modules())
        weights = sum(p.numel() for p in net.parameters())
        found.append(measured(Costs(name, clock, convs, inner, stream, weights), net, x, repeats))
        print(f"{name}: " + ", ".join(f"{what} {s:.4f}" for what, s in found[-1].median.items()), flush=True)
        gc.collect()

    add("ResNet-50", torchvision.models.resnet50(weights=None).eval(), torch.randn(1, 3, 224, 224))
    for convs, inner, stream in CHAINS:
        if convs // 2 * inner + stream <= largest:
            name = f"{convs} convs x {inner}" + (f", stream of {stream}" if stream != STREAM else "")
            add(name, chain(convs, inner, stream), torch.randn(1, 3, 4, 4), inner, stream)
    return found


def machine() -> str:
    """CPU model, threads and versions."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    cpu = found[1] if found else platform.machine()
    load = os.getloadavg()[0]
    return (
        f"{cpu}, {os.cpu_count()} cores, load {load:.1f} at the end, one thread per process; "
        f"torch {torch.__version__.split('+')[0]}, torchvision {torchvision.__version__.split('+')[0]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["size", "processes", "all"], default="all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of the part on size")
    parser.add_argument("--largest", type=int, default=250_000, help="leave out chains of more units")
    parser.add_argument("--steps", type=int, default=60, help="training steps of the part on processes")
    parser.add_argument("--write", type=Path, help="the document; its picture lies beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = ""
    if options.part != "processes":
        svg = (options.write or Path("runs/scale.md")).with_suffix(".svg")
        text += "\n" + chapter(networks(options.repeats, options.largest, CLOCKS[options.clock]), PATIENCE, svg)
    if options.part != "size":
        text += "\n" + scale_ddp.part(options.steps)
    asked = {k: v for k, v in vars(options).items() if k != "write" and v != parser.get_default(k)}
    flags = "".join(f" --{key} {value}" for key, value in asked.items())
    text = f"# Scale\n\n    python -m benchmarks.scale{flags} --write docs/scale.md\n\n{machine()}.\n{text}"
    print(text)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(text)


if __name__ == "__main__":
    main()
