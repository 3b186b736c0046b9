"""Measure how gdp's costs grow with the size of the network: a ResNet-50, and chains of residual blocks."""

from __future__ import annotations

import gc

import torch
import torchvision
from torch import Tensor, nn

import gdp
from benchmarks.common.timing import Clock
from benchmarks.scale.costs import TARGET, Costs, budgets
from gdp.gates import insert_gates
from gdp.surgery import freeze_uncuttable_groups, freeze_untrained_readers
from gdp.tracing import trace_channels

STREAM = 128  # channels of the residual stream: each costs less than the 1 % that a choice may leave unused
CHAINS = (  # convs, channels inside each block, channels of the stream
    *((100, inner, STREAM) for inner in (4, 40, 400, 4080)),  # ever wider
    *((convs, 40, STREAM) for convs in (10, 32, 316, 1000)),  # ever deeper
    (10, 8, STREAM),
    (1000, 400, STREAM),
    (100, 40, 16),  # expensive channels
)


class Block(nn.Module):
    """Compute a residual block of two 1x1 convs.

    The cost of choosing does not depend on kernels, and with these 200 000 channels fit.

    Args:
        stream: channels outside.
        inner: channels inside.
    """

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
    """Make a network of this many convs: a stem, residual blocks on one stream, a head.

    Args:
        convs: their number.
        inner: channels inside each block.
        stream: channels of the stream.
    """
    blocks = (Block(stream, inner) for _ in range((convs - 2) // 2))
    return nn.Sequential(nn.Conv2d(3, stream, 3, padding=1), *blocks, nn.Conv2d(stream, 4, 1)).eval()


def measured(costs: Costs, net: nn.Module, x: Tensor, repeats: int) -> Costs:
    """Measure all costs of one network.

    Args:
        costs: filled here.
        net: the network, in eval mode.
        x: its input.
        repeats: of every figure; quick ones are repeated four times as often.
    """
    # start-up
    costs.take("trace", lambda: trace_channels(net, x), repeats)  # before anything that would warm it up
    costs.take("torch.export", lambda: torch.export.export(net, (x,), strict=False), repeats)
    traced = freeze_untrained_readers(net, trace_channels(net, x))
    costs.take("dry run", lambda: freeze_uncuttable_groups(net, traced), repeats)
    graph = freeze_uncuttable_groups(net, traced)
    costs.groups, costs.channels = len(graph.groups), sum(g.size for g in graph.groups)
    gates = []
    costs.take("gates", lambda: gates.append(insert_gates(net, graph)), repeats, lambda: gates.pop().withdraw())

    # gates move at every step, and channels are chosen when `_select` is called here, and never by `step`
    rarely = gdp.Polar(start=0.0, end=1.0, closing=10**6, gradient_interval=1)
    pruner = gdp.Pruner(net, graph, TARGET, 10**7, rarely)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)

    def read_again() -> None:
        pruner.last_gradient_step = -1  # `watch` reads gradients once per step

    costs.take("watch", pruner.watch, 4 * repeats, read_again)

    # budget steps, with random importance
    lognormal = torch.randn(costs.channels, generator=torch.Generator().manual_seed(0)).exp()
    per_channel = graph.flops.marginal(graph.flops.sizes)[pruner.gates.group_of]
    for drawn_for, allowed in budgets():
        pruner.method_state["importance"] = lognormal if drawn_for == "channel" else (lognormal * per_channel).float()
        costs.take(f"budget {drawn_for} {allowed}", lambda allowed=allowed: pruner._select(allowed), 4 * repeats)
        assert pruner.keep_mask is not None
        kept = torch.bincount(pruner.gates.group_of[pruner.keep_mask], minlength=costs.groups)
        costs.kept[drawn_for] = graph.flops.count(kept) / graph.flops.dense  # the last one allowed is the target
    costs.median["budget"] = max(costs.median[f"budget {drawn_for} {allowed}"] for drawn_for, allowed in budgets())
    pruner.steps = 1
    costs.take("step", pruner.step, 4 * repeats)
    return costs


def networks(repeats: int, largest: int, clock: Clock) -> list[Costs]:
    """Measure ResNet-50, before anything else is warm, and the chains.

    Args:
        repeats: of every figure.
        largest: chains of more channels are left out.
        clock: by which calls are timed.
    """
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
