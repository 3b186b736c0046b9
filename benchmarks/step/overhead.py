"""What pruning costs a training step: gdp, gates on activations and Torch-Pruning's regularizers against dense.

`--cases resnet20:32:128` is a network, the size of its images and the batch; `--watch 1` reads gradients every step.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
import torchvision
from benchmarks.step_profile import PARTS, STEP, peak_rise, state_bytes, time_of_parts
from torch import Tensor, nn

import gdp
from gdp.graph import ChannelGraph
from lightning_modules.resnet_cifar import resnet20, resnet56

CASES = [
    "resnet20:32:128",
    "resnet20:32:32",
    "resnet56:32:128",
    "resnet50:96:32",
    "resnet50:96:8",
    "mobilenet_v2:96:32",
]
OWN = {"resnet20": resnet20, "resnet56": resnet56}
TARGET = 0.4
WAITING = " On the host's clock, choosing waits for the kernels queued before it."
PEERS = {
    "GroupNormPruner": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2)),
    "BNScalePruner": (tp.pruner.BNScalePruner, tp.importance.BNScaleImportance()),
}
CASE = ["network", "images", "batch"]
OVERHEAD = [*CASE, "training", "s per step", "against dense", "min to max", "peak MiB", "peak against dense"]


@dataclass
class Variant:
    """One way to train: `before` is called between backward and the optimizer's step, `after` behind it."""

    name: str
    net: nn.Module
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.net.train()  # Torch-Pruning leaves networks in eval mode
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=0.9)


def gate_activations(net: nn.Module, graph: ChannelGraph) -> None:
    """Multiply a learnable gate per channel onto the input of every layer that gdp gates."""

    def multiply(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * module.gate.to(inputs[0].dtype),)

    for name in {axis.module for group in graph.groups for axis in group.reads}:
        module: Any = net.get_submodule(name)
        shape = (module.in_features,) if isinstance(module, nn.Linear) else (1, module.in_channels, 1, 1)
        module.gate = nn.Parameter(torch.ones(shape, device=module.weight.device))
        module.register_forward_pre_hook(multiply)


def regularized(name: str, net: nn.Module, x: Tensor) -> Variant:
    """Sparse training as in Torch-Pruning's README."""
    pruner, importance = PEERS[name]
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    peer = pruner(net, x[:1], importance=importance, ignored_layers=[head])
    peer.update_regularizer()
    return Variant(f"Torch-Pruning, `{name}`", net, before=lambda: peer.regularize(net))


class Bench:
    """The variants of one case, on one device."""

    def __init__(self, case: str, options: argparse.Namespace) -> None:
        name, size, batch = case.split(":")
        self.labels = [name, f"{size}x{size}", batch]
        self.options, self.device = options, torch.device(options.device)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        torch.manual_seed(0)
        net = OWN[name]() if name in OWN else torchvision.models.get_model(name, weights=None)
        x = torch.randn(int(batch), 3, int(size), int(size))
        graph = gdp.trace(net, x[:1])
        net = net.to(self.device, memory_format=layout)
        self.x, self.y = x.to(self.device, memory_format=layout), torch.randint(0, 10, (len(x),), device=self.device)
        gated, gated_activations, *regular = (copy.deepcopy(net) for _ in range(2 + len(PEERS)))
        # the steps taken here lie in the middle of the window, where everything happens
        total = 20 * (options.repeats + 10)
        schedule = gdp.Polar(start=0.0, end=1.0, gradient_interval=options.watch)
        self.pruner = pruner = gdp.Pruner(gated, graph, TARGET, total, schedule)
        pruner.steps = total // 2
        self.every = math.lcm(options.watch, max(1, schedule.closing // 10))  # readings and choices repeat after this
        gate_activations(gated_activations, graph)
        self.gated = Variant("gdp", gated, lambda: pruner.watch(), lambda: pruner.step())  # by attribute: see `parts`
        self.variants = [
            Variant("dense", net),
            self.gated,
            Variant("gates on activations", gated_activations),
            *(regularized(peer, own, self.x) for peer, own in zip(PEERS, regular, strict=True)),
        ]

    def step(self, variant: Variant) -> None:
        """Train for one step."""
        variant.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp):
            loss = nn.functional.cross_entropy(variant.net(self.x), self.y)
        loss.backward()
        variant.before()
        variant.optimizer.step()
        variant.after()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self) -> dict[str, list[float]]:
        """Seconds per step of every variant, one figure per block of `2 * watch` interleaved steps."""
        block, n = 2 * self.options.watch, len(self.variants)
        times: dict[str, list[float]] = {variant.name: [] for variant in self.variants}
        for repeat in range(block + self.options.repeats):  # the first block warms up
            order = [self.variants[(repeat + i) % n] for i in range(n)]
            for variant in (
                order if repeat % 2 else order[::-1]
            ):  # everyone's turn comes everywhere, never twice in a row
                start = self._now()
                self.step(variant)
                times[variant.name].append(self._now() - start)
        # steps that read gradients and steps that do not come in turns
        starts = range(block, len(times["dense"]) - block + 1, block)
        return {name: [statistics.mean(took[i : i + block]) for i in starts] for name, took in times.items()}

    def peak(self, variant: Variant) -> int:
        """Peak of live tensor bytes over as many steps as hold one that reads gradients."""
        rises = []
        for _ in range(self.options.watch):
            variant.optimizer.zero_grad()
            rises.append(peak_rise(lambda: self.step(variant), self.device))
        return state_bytes(variant.net, variant.optimizer) + max(rises)

    def overhead(self) -> list[list[str]]:
        """Rows of the table of times and memory."""
        times, peaks = self.seconds(), {variant.name: self.peak(variant) for variant in self.variants}
        rows = []
        for name, took in times.items():
            ratios = [mine / dense for mine, dense in zip(took, times["dense"], strict=True)]
            spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
            speed = [f"{statistics.median(took):.4f}", f"{statistics.median(ratios):.3f}", spread]
            memory = [f"{peaks[name] / 2**20:.1f}", f"{peaks[name] / peaks['dense']:.3f}"]
            rows.append([*self.labels, name, *speed, *memory])
        return rows

    def parts(self) -> list[list[str]]:
        """Rows of the table of what gdp's parts take."""
        rows = []
        for where, ms in time_of_parts(lambda: self.step(self.gated), self.pruner, self.every, self.device).items():
            taken = [*(ms[part] for part in PARTS), sum(ms[part] for part in PARTS)]
            shares = [f"{value:.2f} ms ({value / ms[STEP]:.1%})" for value in taken]
            rows.append([*self.labels, where, f"{ms[STEP]:.1f} ms", *shares])
        return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]) + "\n"


def machine(device: str) -> str:
    """Processor, load and versions."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    chip = f"{found[1] if found else 'unknown'} CPU, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return f"{gpu}{chip}, 1 thread, " + ", ".join(
        f"{p} {version(p)}" for p in ("torch", "torchvision", "torch-pruning")
    )


def document(overhead: list[list[str]], parts: list[list[str]], where: str, options: argparse.Namespace) -> str:
    """The whole document."""
    arguments = [a for a in sys.argv[1:] if a != str(options.write) and not a.startswith("--write")]
    return f"""# What pruning costs a training step

One step is zero_grad, forward, cross entropy, backward and SGD with momentum. **gdp** is in the middle of its window
with `target_flops={TARGET}`: gated weights, gradients read every {options.watch} steps, gates moved, channels chosen.
**Gates on activations** multiplies a learnable vector onto the input of the same layers. **Torch-Pruning** calls
`regularize` before the optimizer's step. All are trained in turns in one process, {options.repeats} steps each; a ratio
compares the seconds of a block of {2 * options.watch} steps with those of dense training in the same block: median over
the blocks, least and largest. Peak memory is that of live tensors in a step: parameters, buffers, optimizer state and
what the step allocates on top.

    {shlex.join(["python", "-m", "benchmarks.step_overhead", *arguments])}

{where}{", bfloat16 autocast" * options.amp}{", channels last" * options.channels_last}.

{table(OVERHEAD, overhead)}
## Where the time of gdp goes

Means over steps that hold readings and choices in their usual proportion, under torch.profiler, which slows small
operators down; the share is that of the step under the profiler.{WAITING * (options.device == "cuda")}

{table([*CASE, "clock", "step", *PARTS.values(), "together"], parts)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="NAME:SIZE:BATCH")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--watch", type=int, default=gdp.Polar().gradient_interval)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--write", type=Path, help="the document to write, as docs/step_overhead.md; grows case by case"
    )
    options = parser.parse_args()
    if options.repeats < 2 * options.watch:
        parser.error(f"expected at least {2 * options.watch} repeats, one block, but got {options.repeats}")
    torch.set_num_threads(1)
    where, overhead, parts = machine(options.device), [], []
    for case in options.cases:
        bench = Bench(case, options)
        overhead += bench.overhead()
        parts += bench.parts()
        if options.write:
            options.write.write_text(document(overhead, parts, where, options))
    print(document(overhead, parts, where, options))


if __name__ == "__main__":
    main()
