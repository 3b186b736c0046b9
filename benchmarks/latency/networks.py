"""The networks whose latency is measured: dense, pruned by gdp, thinned uniformly."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import gdp
from gdp.selection import WidthConstraints, check_reachable
from gdp.utils import count_flops, count_parameters
from lightning_modules.resnet_cifar import resnet20, resnet56

SMALL = {"resnet20": resnet20, "resnet56": resnet56}  # for 32x32 images, 10 classes
BATCH = 8  # training images per step
CLASSES = 10  # patterns to tell apart
CELLS = 7  # a pattern has so many cells along each side
LEARNING_RATE, MOMENTUM, CLIP = 0.05, 0.9, 100.0  # clipped so that VGG's classifier does not explode


@dataclass(frozen=True)
class Source:
    """Hold a dense network and what gdp knows of it.

    Attributes:
        net: the network, in eval mode.
        graph: its channel groups.
        importance: of every channel of all groups, shape (channels,).
    """

    net: nn.Module
    graph: gdp.ChannelGraph
    importance: Tensor


@dataclass(frozen=True)
class Network:
    """Hold a network to be timed.

    Attributes:
        name: "dense", or how it was cut and the number its widths are multiples of: "gdp-8", "uniform-1".
        target: fraction of the dense FLOPs that was asked for.
        net: the network, in eval mode.
        flops: of one image, as fvcore counts them.
        parameters: their number.
    """

    name: str
    target: float
    net: nn.Module
    flops: int
    parameters: int


def build(model: str, weights: Path | None = None) -> nn.Module:
    """Make a network with random weights or those of a file.

    Args:
        model: a key of SMALL, or the name of a torchvision model.
        weights: file with a state dict.
    """
    torch.manual_seed(0)
    net = SMALL[model]() if model in SMALL else torchvision.models.get_model(model, weights=None)
    if weights is not None:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net


def default_size(model: str) -> int:
    """Return the side of the images that the network is made for."""
    return 32 if model in SMALL else 224


def observed(net: nn.Module, size: int, steps: int, update: bool) -> Source:
    """Trace a network and read the importance of its channels from the gradients of training batches.

    Images are blurred random patterns in noise, one pattern for each class, at half the size. With `update`, SGD trains
    the weights on them: at random weights, gradients fall with depth by orders of magnitude, and gdp would leave one
    channel in each late layer. Batch statistics follow the images in any case.

    Args:
        net: trained in place.
        size: side of the images that it will be timed with.
        steps: training batches.
        update: let SGD change the weights.
    """
    # gates stay open, they only watch
    torch.manual_seed(1)
    graph = gdp.trace(net.eval(), torch.randn(1, 3, size, size))
    pruner = gdp.Pruner(net, graph, target_flops=1.0)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE if update else 0.0, MOMENTUM)

    # train on patterns in noise
    patterns = torch.randn(CLASSES, 3, CELLS, CELLS)
    side = max(32, size // 2)
    net.train()
    for _ in range(steps):
        labels = torch.randint(CLASSES, (BATCH,))
        cells = patterns[labels] + 0.5 * torch.randn(BATCH, 3, CELLS, CELLS)
        images = nn.functional.interpolate(cells, size=(side, side), mode="bilinear")
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images + 0.2 * torch.randn_like(images)), labels).backward()
        pruner.watch()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
    optimizer.zero_grad()
    pruner.gates.withdraw()
    assert bool(pruner.method_state["importance"].isfinite().all()), "training diverged"
    return Source(net.eval(), graph, pruner.method_state["importance"])


def dense(source: Source) -> Network:
    """Return the network as it is."""
    return Network("dense", 1.0, source.net, source.graph.flops.dense, count_parameters(source.net))


def cut(source: Source, name: str, target: float) -> Network:
    """Make a smaller copy of a network.

    Args:
        source: the dense network.
        name: "gdp-N" or "uniform-N"; widths are multiples of N.
        target: fraction of the FLOPs that remains.

    Raises:
        GDPError: the target can't be reached with such widths.
    """
    way, round_to = name.split("-")

    # close channels
    graph, net = source.graph, copy.deepcopy(source.net)
    widths = WidthConstraints.of(graph, 1, int(round_to))
    if way == "gdp":
        pruner = gdp.Pruner(net, graph, target, constraints=widths)
        pruner.method_state["importance"] = source.importance
        pruner.finish()
        gates = pruner.gates
    else:
        check_reachable(graph, target, widths)
        gates = gdp.insert_gates(net, graph)
        for group, kept in zip(graph.groups, uniform_counts(graph, widths, target).tolist(), strict=True):
            gates.close(group.name, list(range(kept, group.size)))

    # cut them
    predicted = graph.flops.count(gates.open_counts)
    report = gdp.remove(net, graph, gates)
    counted = count_flops(net, graph.inputs)
    assert counted == report.flops_after == predicted, (
        f"{name}: the network has {counted} FLOPs, the report says {report.flops_after}, gdp predicted {predicted}"
    )
    return Network(name, target, net.eval(), counted, report.params_after)


def uniform_counts(graph: gdp.ChannelGraph, widths: WidthConstraints, target: float) -> Tensor:
    """Return open counts with the same fraction of every group, the largest that stays within the target.

    Args:
        graph: of the network.
        widths: which numbers of channels are allowed.
        target: fraction of the FLOPs that may remain.
    """
    budget = int(target * graph.flops.dense)

    def counts(fraction: float) -> Tensor:
        return widths.round_down((fraction * widths.sizes).round().long())

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if graph.flops.count(counts(middle)) <= budget else (low, middle)
    return counts(low)
