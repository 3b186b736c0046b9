"""Train the variants of one case in turns: seconds, memory, and what gdp's parts take."""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time

import torch
import torchvision
from torch import nn

import gdp
from benchmarks.common.memory import peak_rise, state_bytes
from benchmarks.common.timing import synchronize
from benchmarks.step.profile import PARTS, STEP, time_of_parts
from benchmarks.step.variants import PEERS, Variant, gate_activations, regularized
from lightning_modules.resnet_cifar import resnet20, resnet56

OWN = {"resnet20": resnet20, "resnet56": resnet56}
TARGET = 0.4


class Bench:
    """Train the variants of one case, on one device.

    Args:
        case: NAME:SIZE:BATCH.
        options: of the command line.

    Attributes:
        labels: network, images and batch, as they stand in tables.
        variants: dense training first.
        gated: the variant of gdp.
    """

    def __init__(self, case: str, options: argparse.Namespace) -> None:
        name, size, batch = case.split(":")

        # one network for all, with the same weights
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

        # everything that is compared
        gate_activations(gated_activations, graph)
        self.gated = Variant("gdp", gated, lambda: pruner.watch(), lambda: pruner.step())  # by attribute: see `parts`
        self.variants = [
            Variant("dense", net),
            self.gated,
            Variant("gates on activations", gated_activations),
            *(regularized(peer, own, self.x) for peer, own in zip(PEERS, regular, strict=True)),
        ]

    def step(self, variant: Variant) -> None:
        """Train for one step.

        Args:
            variant: one of `variants`.
        """
        variant.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp):
            loss = nn.functional.cross_entropy(variant.net(self.x), self.y)
        loss.backward()
        variant.before()
        variant.optimizer.step()
        variant.after()

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def seconds(self) -> dict[str, list[float]]:
        """Return seconds per step of every variant, one figure per block of `2 * watch` interleaved steps."""
        block, n = 2 * self.options.watch, len(self.variants)
        times: dict[str, list[float]] = {variant.name: [] for variant in self.variants}
        for repeat in range(block + self.options.repeats):  # the first block warms up
            order = [self.variants[(repeat + i) % n] for i in range(n)]
            # everyone's turn comes everywhere, never twice in a row
            for variant in order if repeat % 2 else order[::-1]:
                start = self._now()
                self.step(variant)
                times[variant.name].append(self._now() - start)
        # steps that read gradients and steps that do not come in turns
        starts = range(block, len(times["dense"]) - block + 1, block)
        return {name: [statistics.mean(took[i : i + block]) for i in starts] for name, took in times.items()}

    def peak(self, variant: Variant) -> int:
        """Return the peak of live tensor bytes over as many steps as hold one that reads gradients.

        Args:
            variant: one of `variants`.
        """
        rises = []
        for _ in range(self.options.watch):
            variant.optimizer.zero_grad()
            rises.append(peak_rise(lambda: self.step(variant), self.device))
        return state_bytes(variant.net, variant.optimizer) + max(rises)

    def overhead(self) -> list[list[str]]:
        """Return rows of the table of times and memory."""
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
        """Return rows of the table of what gdp's parts take."""
        rows = []
        for where, ms in time_of_parts(lambda: self.step(self.gated), self.pruner, self.every, self.device).items():
            taken = [*(ms[part] for part in PARTS), sum(ms[part] for part in PARTS)]
            shares = [f"{value:.2f} ms ({value / ms[STEP]:.1%})" for value in taken]
            rows.append([*self.labels, where, f"{ms[STEP]:.1f} ms", *shares])
        return rows
