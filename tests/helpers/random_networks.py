"""Random networks: a hypothesis strategy for their specs, and the module that a spec stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from helpers.random_pieces import ACTS, AROUND, LEAVES, Block, Piece, chain
from hypothesis import strategies as st
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """A network for images of shape (n, channels, 8, 8); the same spec gives the same network."""

    channels: int
    stem: bool
    pieces: tuple[Piece, ...]
    head: str
    seed: int = 0


def _pooled(c: int, s: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 3))


def _flat(c: int, s: int) -> nn.Module:
    layers = {"a": nn.Linear(c * s * s, 6), "bn": nn.BatchNorm1d(6), "b": nn.Linear(6, 3)}
    return Block(lambda self, x: self.b(F.silu(self.bn(self.a(x.contiguous().view(x.shape[0], -1))))), **layers)


def _two(c: int, s: int) -> nn.Module:
    layers = {"a": nn.Conv2d(c, 2, 3, padding=1), "b": _pooled(c, s)}
    return Block(lambda self, x: (self.a(x), self.b(x)), **layers)


HEADS = {"pooled": _pooled, "conv": lambda c, s: nn.Conv2d(c, 3, 1), "flat": _flat, "two": _two}


def build(spec: Spec) -> tuple[nn.Module, Tensor]:
    """The network of a spec in float64 and eval mode, and images for it.

    Batch norm has the statistics of the images, moved at random, so that nothing dies out on the way to the output.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        stem = (Piece("plain", 6),) if spec.stem else ()
        body, c, s = chain((*stem, *spec.pieces), spec.channels, 8)
        net = nn.Sequential(body, HEADS[spec.head](c, s)).double()
        x = torch.randn(4, spec.channels, 8, 8, dtype=torch.float64)
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for m in norms:
            m.momentum = 1.0
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.3, 2.0)
        for p in net.parameters():
            if p.dim() in (2, 4) and min(p.shape[:2]) > 1:
                p.data *= 3**0.5  # torch's own initialization shrinks signals with every layer
        net.train()(x)
        for m in norms:
            m.momentum = 0.1
            m.running_mean += 0.3 * torch.randn(m.num_features) * m.running_var.sqrt()
            m.running_var *= torch.rand(m.num_features) + 0.5
    return net.eval(), x


def everything(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """All pieces, those inside others included."""
    for p in pieces:
        yield p
        yield from everything(p.inner)


def _piece(kinds: Sequence[Callable[..., nn.Module]], inner: st.SearchStrategy[tuple[Piece, ...]]) -> st.SearchStrategy:
    return st.builds(
        Piece,
        kind=st.sampled_from([f.__name__ for f in kinds]),
        width=st.sampled_from([4, 6, 8, 12]),
        n=st.integers(1, 3),
        act=st.sampled_from(list(ACTS)),
        norm=st.booleans(),
        inner=inner,
    )


def _around(pieces: st.SearchStrategy[Piece]) -> st.SearchStrategy[Piece]:
    return _piece(AROUND, st.lists(pieces, min_size=1, max_size=2).map(tuple))


def specs() -> st.SearchStrategy[Spec]:
    """Networks of 2 to 5 pieces, where a piece may hold others."""
    leaf = _piece(LEAVES, st.just(()))
    piece = st.recursive(leaf, _around, max_leaves=3)
    return st.builds(
        Spec,
        channels=st.sampled_from([3, 4]),
        stem=st.booleans(),
        pieces=st.lists(piece, min_size=2, max_size=5).map(tuple),
        head=st.sampled_from(list(HEADS)),
        seed=st.integers(0, 999),
    )
