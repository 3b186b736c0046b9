"""Time tracing and grouping against torch.export alone, in turns, median of the ratios; and how it grows with depth."""

from __future__ import annotations

import argparse
import platform
import statistics

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from benchmarks.common.timing import timed
from gdp.tracing import trace_channels


def chain(blocks: int) -> nn.Module:
    """Make a residual network of this many basic blocks, on one stream."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16))
    return nn.Sequential(stem, *(BasicBlock(16, 16) for _ in range(blocks)), nn.Conv2d(16, 4, 1)).eval()


def growth(depths: list[int], repeats: int) -> None:
    """Print seconds per operator of the graph for ever deeper networks: linear growth keeps them where they are.

    Args:
        depths: numbers of blocks.
        repeats: of which the median is taken.
    """
    for blocks in depths:
        net, x = chain(blocks), torch.randn(1, 3, 32, 32)
        operators = 7 * blocks + 3
        times = [timed(lambda net=net, x=x: trace_channels(net, x))[1].wall for _ in range(repeats)]
        median = statistics.median(times)
        print(f"{blocks} blocks, {operators} operators: {median:.2f} s, {1e3 * median / operators:.2f} ms per operator")


def main() -> None:
    """Print the ratios of all models, and the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["resnet50"])
    parser.add_argument("--depths", type=int, nargs="*", default=[25, 50, 100, 200, 400])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        net, x = torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
        pairs = []
        for repeat in range(options.repeats + 1):
            export = timed(lambda net=net, x=x: torch.export.export(net, (x,), strict=False))[1].wall
            trace = timed(lambda net=net, x=x: trace_channels(net, x))[1].wall
            if repeat:  # the first call of each compiles and imports
                pairs.append((export, trace))
        export, trace = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = [t / e for e, t in pairs]
        print(
            f"{name}, 224x224, {platform.machine()} CPU, 1 thread, torch {torch.__version__}, {options.repeats} "
            f"interleaved repeats: torch.export {export:.2f} s, trace_channels {trace:.2f} s, ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    growth(options.depths, 3)


if __name__ == "__main__":
    main()
