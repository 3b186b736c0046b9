"""Networks whose forward keeps something in plain attributes of its modules."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import nn


class Keeps(nn.Module):
    """A conv, what a subclass keeps, and a head; `keep` scales the 8 channels in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def keep(self, y):
        raise NotImplementedError

    def forward(self, x):
        return self.b(self.keep(self.a(x).relu()))


class GridAndShape(Keeps):
    """A grid that is made once per shape (detection heads)."""

    shape = None

    def __init__(self) -> None:
        super().__init__()
        self.grid = torch.empty(0)

    def keep(self, y):
        if self.shape != y.shape[2:]:
            self.grid, self.shape = torch.arange(float(y.shape[-1])), y.shape[2:]
        return y * self.grid


class Flag(Keeps):
    """A mask that is not there before the first forward."""

    ready = False

    def keep(self, y):
        if not self.ready:
            self.mask, self.ready = torch.full((1, 1, 1), 0.5), True
        return y * self.mask


class TablesBySize(Keeps):
    """A dict of tensors by size (attention biases, windows), beside an ordered one of their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[tuple[str, int], torch.Tensor] = {}
        self.order: OrderedDict[int, str] = OrderedDict()

    def keep(self, y):
        size = y.shape[-1]
        if (str(y.device), size) not in self.tables:
            self.tables[str(y.device), size] = torch.linspace(0.5, 1.5, size, device=y.device)
            self.order[size] = "seen"
            self.order.move_to_end(size, last=False)
        return y * self.tables[str(y.device), size]


class MeanOfItsType(Keeps):
    """A constant that follows the type of the input (super-resolution)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.full((1, 1, 1, 1), 0.25)

    def keep(self, y):
        self.mean = self.mean.type_as(y)
        return y - self.mean


class Record(Keeps):
    """Lists, sets and counters that every forward adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[torch.Tensor] = []
        self.sizes: set[int] = set()
        self.calls = 0
        self.nested = {"all": [[], ({},)]}

    def keep(self, y):
        self.calls += 1
        self.features.append(y)
        self.sizes.add(y.shape[-1])
        self.nested["all"][0].append(y)
        self.nested["all"][1][0][self.calls] = y
        return y


class WrittenInPlace(Keeps):
    """A size in a plain tensor, and a scale in a list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.size = torch.zeros(())
        self.scales = [torch.ones(2)]

    def keep(self, y):
        self.size.fill_(y.shape[-1])
        self.scales[0].mul_(0.5)
        return y


class Unregistered(Keeps):
    """A module in a plain list, a namespace and a dataclass, all of which keep something."""

    @dataclass
    class State:
        last: torch.Tensor | None = None
        sizes: list[int] = field(default_factory=list)

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [MeanOfItsType()]
        self.names = SimpleNamespace(last=None)
        self.state = self.State()

    def keep(self, y):
        self.names.last = self.state.last = y
        self.state.sizes.append(y.shape[-1])
        return self.hidden[0].keep(y)


class Helper(Keeps):
    """An object of a plain class, which makes a grid once and counts (anchor and prior generators)."""

    class Grids:
        def __init__(self) -> None:
            self.calls, self.found = 0, {}

        def of(self, y):
            self.calls += 1
            if self.calls == 1:
                self.scale = torch.full((1,), 0.5)
            size = int(y.shape[-1])
            if size not in self.found:
                self.found[size] = torch.linspace(0.5, 1.5, size)
            return self.found[size] * self.scale

    def __init__(self) -> None:
        super().__init__()
        self.grids = [self.Grids()]

    def keep(self, y):
        return y * self.grids[0].of(y)


class AttentionBias(nn.Module):
    """Attention whose bias is gathered once in eval mode and forgotten in train mode (LeViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 24, 1), nn.Conv2d(8, 4, 1)
        self.biases = nn.Parameter(torch.randn(36))
        self.register_buffer("index", torch.randint(0, 36, (36, 36)), persistent=False)
        self.cache: dict[torch.device, torch.Tensor] = {}

    def train(self, mode: bool = True):
        if mode and "cache" in vars(self):
            self.cache = {}
        return super().train(mode)

    def bias(self, device):
        if self.training:
            return self.biases[self.index]
        if device not in self.cache:
            self.cache[device] = self.biases[self.index]
        return self.cache[device]

    def forward(self, x):
        y = self.a(x).relu()
        q, k, v = self.qkv(y).flatten(2).transpose(1, 2).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) + self.bias(x.device)).softmax(-1)
        return self.b((weights @ v).transpose(1, 2).reshape(y.shape) + y)


class NewModule(Keeps):
    """Makes a layer without weights, and a parameter's attribute, when forward meets them first."""

    def keep(self, y):
        if not hasattr(self, "pool"):
            self.pool = nn.AvgPool2d(1)
            self.a.weight.seen = y.shape
        return self.pool(y)


class WeightsWritten(Keeps):
    """Clips its weights, one in place and one by other data, in eval mode as well."""

    def keep(self, y):
        self.b.weight.data.clamp_(-0.05, 0.05)
        self.a.weight.data = self.a.weight.data.clamp(-0.1, 0.1)
        return y


KEEPING = [GridAndShape, Flag, TablesBySize, MeanOfItsType, Record, WrittenInPlace, Unregistered, AttentionBias]
KEEPING += [WeightsWritten, Helper]
