"""The networks whose latency is measured: dense, pruned by gdp, thinned uniformly; and their convs one by one."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """A dense network, what gdp found in it, and what its channels are worth."""

    net: nn.Module
    graph: gdp.ChannelGraph
    worth: Tensor


@dataclass(frozen=True)
class Network:
    """A network to be timed.

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
    """The network of that name, with random weights or those of a file that holds a state dict."""
    torch.manual_seed(0)
    net = SMALL[model]() if model in SMALL else torchvision.models.get_model(model, weights=None)
    if weights is not None:
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net


def default_size(model: str) -> int:
    """Side of the images that the network is made for."""
    return 32 if model in SMALL else 224


def observed(net: nn.Module, size: int, steps: int, update: bool) -> Source:
    """Trace a network and read what its channels are worth from the gradients of `steps` training batches.

    Images are blurred random patterns in noise, one pattern for each class, at half the size. With `update`, SGD trains
    the weights on them: at random weights, gradients fall with depth by orders of magnitude, and gdp would leave one
    channel in each late layer. Batch statistics follow the images in any case.
    """
    torch.manual_seed(1)
    graph = gdp.trace(net.eval(), torch.randn(1, 3, size, size))
    pruner = gdp.Pruner(net, graph, target_flops=1.0)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE if update else 0.0, MOMENTUM)
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
    """The network as it is."""
    return Network("dense", 1.0, source.net, source.graph.flops.dense, count_parameters(source.net))


def cut(source: Source, name: str, target: float) -> Network:
    """A smaller copy of a network: "gdp-N" or "uniform-N", widths being multiples of N.

    Raises:
        GDPError: the target can't be reached with such widths.
    """
    kind, round_to = name.split("-")
    graph, net = source.graph, copy.deepcopy(source.net)
    widths = WidthConstraints.of(graph, 1, int(round_to))
    if kind == "gdp":
        pruner = gdp.Pruner(net, graph, target, constraints=widths)
        pruner.method_state["importance"] = source.worth
        pruner.finish()
        gates = pruner.gates
    else:
        check_reachable(graph, target, widths)
        gates = gdp.insert_gates(net, graph)
        for group, kept in zip(graph.groups, uniform_counts(graph, widths, target).tolist(), strict=True):
            gates.close(group.name, list(range(kept, group.size)))
    predicted = graph.flops.count(gates.open_counts)
    report = gdp.remove(net, graph, gates)
    counted = count_flops(net, graph.inputs)
    assert counted == report.flops_after == predicted, (
        f"{name}: the network has {counted} FLOPs, the report says {report.flops_after}, gdp predicted {predicted}"
    )
    return Network(name, target, net.eval(), counted, report.params_after)


def uniform_counts(graph: gdp.ChannelGraph, widths: WidthConstraints, target: float) -> Tensor:
    """Open counts with the same fraction of every group, the largest that stays within the target."""
    budget = int(target * graph.flops.dense)

    def counts(fraction: float) -> Tensor:
        return widths.round_down((fraction * widths.sizes).round().long())

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if graph.flops.count(counts(middle)) <= budget else (low, middle)
    return counts(low)


@dataclass(frozen=True)
class ConvShape:
    """A 2d conv and the size of its input."""

    ins: int
    outs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    height: int
    width: int

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        stride = f", stride {self.stride[0]}" if self.stride[0] > 1 else ""
        size = f"{self.kernel[0]}x{self.kernel[1]}"
        return f"{self.ins} to {self.outs}, {size}{stride}{groups}, at {self.height}x{self.width}"

    @property
    def flops(self) -> int:
        """Multiply-adds for one image."""
        sizes = zip((self.height, self.width), self.kernel, self.stride, self.padding, strict=True)
        (high, wide) = ((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in sizes)
        return high * wide * self.outs * self.ins // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def widths(self) -> list[int]:
        """A quarter, a half, one more than that, three quarters and all of the outputs; the others multiples of 8.

        A conv in groups has as many inputs as outputs and keeps the size of its groups.
        """
        unit = self.ins // self.groups if self.groups > 1 else 1
        step = 8 if 8 % unit == 0 else unit
        quarter, half, most = (max(step, round(share * self.outs / step) * step) for share in (0.25, 0.5, 0.75))
        return [quarter, half, half + unit, most, self.outs]

    def narrowed(self, outs: int) -> ConvShape:
        """The conv with fewer outputs."""
        grouped = {"ins": outs, "groups": outs * self.groups // self.ins} if self.groups > 1 else {}
        return ConvShape(**{**vars(self), "outs": outs, **grouped})

    def module(self) -> nn.Conv2d:
        """A conv of this shape with random weights."""
        return nn.Conv2d(
            self.ins, self.outs, self.kernel, self.stride, self.padding, groups=self.groups, bias=False
        ).eval()


def convs(net: nn.Module, size: int) -> dict[ConvShape, list[str]]:
    """The different convs of a network, with the names of the layers that have each shape."""
    names = {module: name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    found: dict[ConvShape, list[str]] = {}

    def note(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        assert not isinstance(conv.padding, str) and conv.dilation == (1, 1)
        window: Any = (conv.kernel_size, conv.stride, conv.padding)
        height, width = inputs[0].shape[2:]
        shape = ConvShape(conv.in_channels, conv.out_channels, *window, conv.groups, height, width)
        found.setdefault(shape, []).append(names[conv])

    hooks = [conv.register_forward_pre_hook(note) for conv in names]
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return found
