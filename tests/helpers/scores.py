"""Networks whose weights are written out, and what methods say of their channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from helpers.contexts import of_network
from torch import Tensor, nn

import gdp
from gdp.methods import PruningMethod, StepContext

X = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def chain(*filters: Sequence[Sequence[float]], norms: bool = False) -> nn.Sequential:
    """1x1 convs with these filters, a matrix (channels, inputs) each, the first of which reads two channels."""
    layers: list[nn.Module] = []
    for matrix in filters:
        weight = torch.tensor(matrix)
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
        conv.weight.data.copy_(weight[..., None, None])
        layers += [conv, *([nn.BatchNorm2d(len(weight))] if norms else []), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Stream(nn.Module):
    """A stream of two channels that two convs write with norms 3, 2 and 1, 3, and a conv that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.last = (nn.Conv2d(n, m, 1, bias=False) for n, m in ((2, 2), (2, 2), (2, 1)))
        self.stem.weight.data[:, :, 0, 0] = torch.tensor([[3.0, 0.0], [2.0, 0.0]])
        self.branch.weight.data[:, :, 0, 0] = torch.tensor([[1.0, 0.0], [0.0, 3.0]])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(x + self.branch(x))


def channels(net: nn.Module, x: Tensor = X, **options) -> StepContext:
    """A step of a run with this network, whose gates are all open."""
    return of_network(net, x, **options)


def scores(method: PruningMethod, context: StepContext, state: dict[str, Tensor] | None = None) -> list[float]:
    """What channels are compared by: importance per FLOP, rounded to 4 digits."""
    state = method.init_state(len(context.gate_param)) if state is None else state
    found = method.importance(state, context).double() / context.marginal
    return [round(score, 4) for score in found.tolist()]


def places(*per_group: Sequence[int]) -> list[float]:
    """The scores of channels whose places within their groups are these, 1 for the lowest, and 0 for what is cut."""
    return [round(place / max(group), 4) for group in per_group for place in group]


def cut(context: StepContext, name: str, indices: Sequence[int]) -> None:
    """Cut channels of a group out of the network."""
    context.gates.close(name, indices)
    gdp.surgery.shrink(context.gates)


class NormedStream(nn.Module):
    """A stream of two channels that two convs with norms write, and two convs read: the branch and the last one."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.last = (nn.Conv2d(n, m, 1, bias=False) for n, m in ((2, 2), (2, 2), (2, 1)))
        self.norm1, self.norm2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.norm1(self.stem(x))
        return self.last(x + self.norm2(self.branch(x)))


def penalty_and_gradients(method: PruningMethod, context: StepContext, state=None) -> tuple[float, dict[str, Tensor]]:
    """A method's penalty, and its gradients by the names of the parameters that have one; 6 digits."""
    net = context.gates.model
    with torch.enable_grad():
        penalty = method.penalty({} if state is None else state, context)
    found = torch.autograd.grad(penalty, list(net.parameters()), allow_unused=True)
    named = zip((name for name, _ in net.named_parameters()), found, strict=True)
    return round(penalty.item(), 6), {name: g.flatten() for name, g in named if g is not None and bool(g.any())}


def near(found: Tensor, expected: Sequence[float]) -> bool:
    """Whether numbers are those that were written out, to 6 digits."""
    return torch.allclose(found, torch.tensor(expected), rtol=0, atol=1e-6)
