"""What gates cost: one training step with gates against the dense step, in interleaved repeats, median of the ratios.

A gated step is everything gdp adds to training inside the window: gated weights in forward and backward, reading the
gates' gradients, moving gates, choosing channels. `--watch 1` reads gradients every step.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time

import torch
import torchvision
from torch import Tensor, nn

import gdp


def seconds_per_step(
    net: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, pruner: gdp.Pruner | None
) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    if pruner is not None:
        pruner.watch()
    optimizer.step()
    if pruner is not None:
        pruner.step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--watch", type=int, default=gdp.Schedule().watch)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = torchvision.models.get_model(options.model, weights=None)
    gated = copy.deepcopy(dense)
    x, y = torch.randn(options.batch, 3, options.size, options.size), torch.randint(0, 1000, (options.batch,))
    graph = gdp.trace(gated, x[:1])
    # the repeats lie in the middle of the window, where everything happens
    total = 10 * options.repeats
    pruner = gdp.Pruner(gated, graph, 0.4, total, gdp.Schedule(start=0.01, end=1.0, watch=options.watch))
    nets = [(dense, None), (gated, pruner)]
    runs = [(net, torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9), p) for net, p in nets]
    times: list[list[float]] = []
    for repeat in range(options.repeats + 2):
        order = runs if repeat % 2 else runs[::-1]  # neither side always runs on warm caches
        took = {id(net): seconds_per_step(net, x, y, optimizer, p) for net, optimizer, p in order}
        if repeat >= 2:
            times.append([took[id(dense)], took[id(gated)]])
    # steps that read gradients and steps that do not come in turns: compare blocks of `watch` steps
    blocks = [times[i : i + 2 * options.watch] for i in range(0, len(times) - 2 * options.watch + 1, 2 * options.watch)]
    ratios = [sum(g for _, g in block) / sum(d for d, _ in block) for block in blocks]
    dense_s, gated_s = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{options.model}, batch {options.batch}, {options.size}x{options.size}, {platform.machine()} CPU, 1 thread, "
        f"torch {torch.__version__}, {options.repeats} interleaved repeats: "
        f"dense {dense_s:.3f} s, gated {gated_s:.3f} s, "
        f"gated / dense {statistics.median(ratios):.3f} (median over blocks of {2 * options.watch} steps; "
        f"{min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
