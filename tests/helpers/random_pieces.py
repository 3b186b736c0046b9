"""Pieces of random networks: each makes a module for any number of channels and pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """A part of a network, for any number of channels and pixels; `n` is what its kind makes of it."""

    kind: str
    width: int = 4  # channels that its convs make
    n: int = 1  # parts, groups, filters per channel, or a variant
    act: str = "silu"
    norm: bool = True
    inner: tuple[Piece, ...] = ()


class Block(nn.Module):
    """Layers by name, and the function that says how they are used."""

    def __init__(self, function: Callable[..., object], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


ACTS: dict[str, Callable[[int], nn.Module]] = {
    "silu": lambda c: nn.SiLU(),
    "leaky_relu": lambda c: nn.LeakyReLU(0.2),
    "tanh": lambda c: nn.Tanh(),
    "prelu": lambda c: nn.PReLU(c, init=0.3),
    "relu": lambda c: nn.ReLU(),
}


def after(c: int, p: Piece) -> list[nn.Module]:
    return [*([nn.BatchNorm2d(c)] if p.norm else []), ACTS[p.act](c)]


def conv(i: int, o: int, p: Piece, k: int = 3, **kw: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, **{"padding": k // 2, **kw}), *after(o, p))


def divisor(c: int, at_most: int) -> int:
    return max(d for d in range(1, at_most + 1) if c % d == 0)


def fit(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape[2:] == like.shape[2:] else F.interpolate(x, like.shape[2:])


def chain(pieces: Sequence[Piece], c: int, s: int) -> tuple[nn.Sequential, int, int]:
    """Pieces one after the other for `c` channels of s x s pixels; channels and pixels of the result."""
    layers = nn.Sequential()
    for p in pieces:
        layers.append(PIECES[p.kind](c, s, p))
        with torch.no_grad():
            c, s = layers[-1].eval()(torch.zeros(1, c, s, s)).shape[1:3]
    return layers, c, s


def plain(c: int, s: int, p: Piece) -> nn.Module:
    more = ({}, {"stride": 2 if s > 2 else 1}, {"dilation": 2, "padding": 2})[p.n - 1]
    return conv(c, p.width, p, **more)


def depthwise(c: int, s: int, p: Piece) -> nn.Module:
    return conv(c, c * p.n, p, groups=c)


def grouped(c: int, s: int, p: Piece) -> nn.Module:
    groups = divisor(c, p.n + 1)
    return conv(c, groups * (p.width // 2), p, groups=groups)


def transposed(c: int, s: int, p: Piece) -> nn.Module:
    groups = (1, divisor(c, 2), c)[p.n - 1]
    shape = {"kernel_size": 2, "stride": 2} if s < 8 else {"kernel_size": 3, "padding": 1}
    o = groups * (p.width // 2)
    return nn.Sequential(nn.ConvTranspose2d(c, o, groups=groups, **shape), *after(o, p))


def pool(c: int, s: int, p: Piece) -> nn.Module:
    return (nn.MaxPool2d, nn.AvgPool2d)[p.n % 2](*((2,) if s > 2 and p.norm else (3, 1, 1)))


def upsample(c: int, s: int, p: Piece) -> nn.Module:
    return nn.Upsample(scale_factor=2 if s <= 8 else 1, mode=("nearest", "bilinear")[p.n % 2])


def preactivation(c: int, s: int, p: Piece) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(c), ACTS[p.act](c), nn.Conv2d(c, p.width, 3, padding=1))


def double(c: int, s: int, p: Piece) -> nn.Module:
    again = (nn.Identity(), nn.ReLU(), ACTS[p.act](c))[p.n - 1]
    return Block(lambda self, x: torch.cat([x, self.again(x)], 1), again=again)


def shuffle(c: int, s: int, p: Piece) -> nn.Module:
    groups = divisor(c, min(p.n + 1, max(1, c // 2)))  # of two channels or more: `view(b, 2, 1, ...)` is a literal size
    return Block(lambda self, x: x.reshape(x.shape[0], groups, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape))


def squeeze_excite(c: int, s: int, p: Piece) -> nn.Module:
    def by_conv(self: Block, x: Tensor) -> Tensor:
        return x * self.up(self.down(F.adaptive_avg_pool2d(x, 1))).sigmoid()

    def by_linear(self: Block, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3)))).sigmoid().view(*x.shape[:2], 1, 1)

    if p.n == 1:
        return Block(by_conv, down=conv(c, p.width, p, 1), up=nn.Conv2d(p.width, c, 1))
    down = nn.Sequential(nn.Linear(c, p.width), ACTS[p.act](p.width))
    return Block(by_linear, down=down, up=nn.Linear(p.width, c))


def pixel_shuffle(c: int, s: int, p: Piece) -> nn.Module:
    return nn.Sequential(conv(c, 2 * p.width, p), nn.PixelShuffle(2), nn.MaxPool2d(1 if s <= 8 else 2))


def pixel_unshuffle(c: int, s: int, p: Piece) -> nn.Module:
    r = 2 if s > 2 else 1
    return nn.Sequential(nn.PixelUnshuffle(r), conv(c * r * r, p.width, p, 1))


def scale(c: int, s: int, p: Piece) -> nn.Module:
    shape = ((c, 1, 1), (1, c, 1, 1), (1, c, s, s))[p.n - 1]
    layers = {"factor": nn.Parameter(torch.rand(shape) + 0.5), "shift": nn.Parameter(torch.randn(shape))}
    return Block(lambda self, x: x * self.factor + self.shift, **layers)


def mask(c: int, s: int, p: Piece) -> nn.Module:
    return Block(lambda self, x: x * self.mask(x).sigmoid(), mask=nn.Conv2d(c, 1, 1))


def group_norm(c: int, s: int, p: Piece) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(divisor(c, max(1, c // 2)) if p.n > 1 else 1, c), ACTS[p.act](c))


def positionwise(c: int, s: int, p: Piece) -> nn.Module:
    return Block(
        lambda self, x: self.act(self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()),
        linear=nn.Linear(c, p.width),
        act=ACTS[p.act](p.width),
    )


def glu(c: int, s: int, p: Piece) -> nn.Module:
    def forward(self: Block, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        return a * b.sigmoid()

    return Block(forward, conv=conv(c, 2 * p.width, p))


def shared(c: int, s: int, p: Piece) -> nn.Module:
    """One conv called twice, or two that hold the same weight."""
    a = conv(c, c, p)
    b = a if p.n == 1 else conv(c, c, p)
    b[0].weight = a[0].weight
    return nn.Sequential(a, b)


def residual(c: int, s: int, p: Piece) -> nn.Module:
    inner, o, size = chain(p.inner, c, s)
    if p.n == 3:  # a projection
        inner, o = nn.Sequential(inner, conv(o, p.width, p, 1)), p.width
    elif o != c:  # back to the stream
        inner, o = nn.Sequential(inner, nn.Conv2d(o, c, 1)), c
    short = nn.Identity() if (o, size) == (c, s) else nn.Conv2d(c, o, 1)
    act = ACTS[p.act](o) if p.norm else nn.Identity()

    def forward(self: Block, x: Tensor) -> Tensor:
        y = self.inner(x)
        return self.act(fit(self.short(x), y) + y)

    return Block(forward, inner=inner, short=short, act=act)


def dense(c: int, s: int, p: Piece) -> nn.Module:
    return Block(lambda self, x: torch.cat([x, fit(self.inner(x), x)], 1), inner=chain(p.inner, c, s)[0])


def branches(c: int, s: int, p: Piece) -> nn.Module:
    """Two branches of different widths, joined, or one weighed by the other."""
    inner, o, _ = chain(p.inner, c, s)

    def forward(self: Block, x: Tensor) -> Tensor:
        a, b = self.inner(x), self.other(x)
        return fit(a, b) * b.sigmoid() if p.n == 1 else torch.cat([fit(a, b), b], 1)

    return Block(forward, inner=inner, other=conv(c, o if p.n == 1 else o + 1, p, 1))


def parts(c: int, s: int, p: Piece) -> nn.Module:
    """Equal parts of the stream; one of them is worked on and changes its place."""
    n = divisor(c, p.n + 1)

    def forward(self: Block, x: Tensor) -> Tensor:
        first, *rest = x.chunk(n, 1) if p.norm else x.split(x.shape[1] // n, 1)
        return torch.cat([*rest, fit(self.inner(first), x)], 1)

    return Block(forward, inner=chain(p.inner, c // n, s)[0])


def unet(c: int, s: int, p: Piece) -> nn.Module:
    down = nn.MaxPool2d(2) if s > 2 else nn.MaxPool2d(3, 1, 1)
    inner = chain(p.inner, c, s // 2 if s > 2 else s)[0]
    return Block(lambda self, x: torch.cat([fit(self.inner(self.down(x)), x), x], 1), down=down, inner=inner)


def recurrent(c: int, s: int, p: Piece) -> nn.Module:
    inner, o, _ = chain(p.inner, c, s)

    def forward(self: Block, x: Tensor) -> Tensor:
        for _ in range(2):
            x = fit(self.back(self.inner(x)), x)
        return x

    return Block(forward, inner=inner, back=conv(o, c, p, 1))


LEAVES = (
    plain, depthwise, grouped, transposed, pool, upsample, preactivation, double, shuffle, squeeze_excite,
    pixel_shuffle, pixel_unshuffle, scale, mask, group_norm, positionwise, glu, shared,
)  # fmt: skip
AROUND = (residual, dense, branches, parts, unet, recurrent)
PIECES: dict[str, Callable[[int, int, Piece], nn.Module]] = {f.__name__: f for f in (*LEAVES, *AROUND)}
