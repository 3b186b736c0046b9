"""Try a training step on a network with closed channels, and with the same channels cut.

What `forward` does has been traced; what a training step reads inside the network beside it can be seen only here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gdp.gates import Gates
from gdp.graph import Axis, CutPlan
from gdp.surgery.bisect import Bisection
from gdp.surgery.dry_run import DryRunFailure
from gdp.surgery.shrink import cut_channels
from gdp.surgery.temporary_weights import zero_closed_inputs
from gdp.utils import CONV, NORM, first_line, get_module, of_all_ranks, source_line

# what is read has a gradient; where nothing but zero weights reads, it is zero but for this part of the largest
NEGLIGIBLE = 1e-6
READ = "training_step reads it beside forward, so its loss would be another one after a cut"

Step = Callable[[], AbstractContextManager[Tensor]]  # runs the user's code, and gives a loss with its graph


@dataclass(frozen=True)
class StepTrial:
    """What a training step needs of the network.

    Attributes:
        failing: the groups whose cut it can't follow, with the error.
        read: the other groups that it reads beside `forward`, with a sentence that says so.
    """

    failing: dict[str, str]
    read: dict[str, str]


def try_step(gates: Gates, step: Step, protected: Callable[[], AbstractContextManager[None]]) -> StepTrial | None:
    """Run a training step with a random share of all channels closed, with the rest of them closed, and with a cut.

    Failing groups are found by bisection. All processes of a run do the same calls, and return the same.

    Args:
        gates: of the network, which is left as it was.
        step: runs the user's code.
        protected: undoes what the user's code leaves behind.

    Returns:
        None if the step fails on the whole network, so that nothing can be said.
    """
    # with closed channels: what else than the readers has a gradient by them?
    graph, shares = gates.graph, _random_shares(gates)
    rest = {name: ~share & ~gates.removed[gates.spans[name]] for name, share in shares.items()}
    read: set[str] = set()
    for closed in (shares, rest):
        with protected():
            found = of_all_ranks(_read_groups(gates, closed, step))
        if any(names is None for names in found):
            return None
        read = read.union(*(names or () for names in found))

    def attempt(names: list[str]) -> DryRunFailure | None:
        """Run the step with channels of these groups cut; return the failure of any process."""
        removed = gates.removed.clone()
        for name in names:
            removed[gates.spans[name]] |= shares[name]
        failure = None
        with protected():
            undo = cut_channels(gates, removed)
            try:
                with step():
                    pass
            except Exception as error:  # the user's code may raise anything
                failure = DryRunFailure(first_line(error), source_line(error))
            finally:
                undo()
        return next((failed for failed in of_all_ranks(failure) if failed is not None), None)

    # with the first share cut
    failing: dict[str, str] = {}
    while names := [name for name in shares if name not in failing]:
        failure = attempt(names)
        if failure is None:
            break
        failing |= Bisection(graph, attempt, "training_step", read).failing_groups(names, failure)
    return StepTrial(failing, {name: READ for name in shares if name in read and name not in failing})


def _random_shares(gates: Gates) -> dict[str, Tensor]:
    """Return for every group that can be cut a random share of its channels, at least half of them, but never all.

    Args:
        gates: of the network; channels that have been cut already are in no share.
    """
    generator, shares = torch.Generator().manual_seed(0), {}
    for group in gates.graph.groups:
        present = torch.nonzero(~gates.removed[gates.spans[group.name]]).flatten()
        if len(present) > 1 and not gates.graph.is_held(group):
            order = present[torch.randperm(len(present), generator=generator)]
            count = int(torch.randint((len(present) + 1) // 2, len(present), (1,), generator=generator))
            shares[group.name] = torch.zeros(group.size, dtype=torch.bool).index_fill(0, order[:count], True)
    return shares


def _read_groups(gates: Gates, shares: dict[str, Tensor], step: Step) -> set[str] | None:
    """Return the groups whose closed channels have a part in the loss; None if the step fails.

    The weights that read closed channels are zero, so that the loss has no gradient by these channels but through what
    reads them beside `forward`.

    Args:
        gates: of the network.
        shares: the closed channels of every group, one bool per channel.
        step: runs the user's code.
    """
    plan = CutPlan.of(gates.graph, gates.indices(gates.removed))
    closed = {name: torch.nonzero(share).flatten().tolist() for name, share in shares.items()}
    with zero_closed_inputs(gates.model, gates.graph, plan, closed), _outputs(gates, plan, closed) as outputs:
        try:
            with step() as loss:
                return _with_gradient(loss, list(outputs))
        except Exception:  # the user's code may raise anything
            return None


def _with_gradient(loss: Tensor, outputs: list[_Output]) -> set[str]:
    """Return the groups by whose closed channels a loss has a gradient.

    Args:
        loss: of any shape, with its graph.
        outputs: of layers, in this graph.
    """
    if not loss.requires_grad or not outputs:
        return set()
    try:
        gradients = torch.autograd.grad(loss.sum(), [output.value for output in outputs], allow_unused=True)
    except RuntimeError:  # reentrant checkpoints know no gradient of what lies inside
        return set()
    found = zip(outputs, gradients, strict=True)
    return {output.group for output, gradient in found if gradient is not None and output.is_read(gradient)}


@dataclass(frozen=True)
class _Output:
    """What a layer has put out, and which of it belongs to closed channels.

    Attributes:
        value: the output.
        group: name of the group that its channels belong to.
        dim: along which they lie.
        closed: their places along it.
    """

    value: Tensor
    group: str
    dim: int
    closed: list[int]

    def is_read(self, gradient: Tensor) -> bool:
        """Return whether the loss depends on closed channels.

        Args:
            gradient: of the loss, of the shape of the output.
        """
        magnitude = gradient.abs().nan_to_num(0.0, 0.0)
        closed = magnitude.index_select(self.dim, torch.tensor(self.closed, device=magnitude.device))
        return bool(closed.amax() > NEGLIGIBLE * magnitude.amax()) if closed.numel() else False


@contextmanager
def _outputs(gates: Gates, plan: CutPlan, closed: dict[str, list[int]]) -> Iterator[list[_Output]]:
    """Collect what the layers put out that make or carry the channels of groups, call by call.

    Args:
        gates: of the network.
        plan: by which the network is cut now.
        closed: indices of the closed channels of every group.
    """
    found: list[_Output] = []

    def note(group: str, axis: Axis, layer: nn.Module, _: object, output: object) -> None:
        """Add an output of a layer, along whose weight's axis it makes the channels of a group."""
        if isinstance(output, Tensor) and output.requires_grad:
            rows = plan.keep.get(axis.tensor, {}).get(axis.dim, range(gates.graph.shapes[axis.tensor][axis.dim]))
            place = {row: i for i, row in enumerate(rows)}
            places = [place[row] for row in axis.index[closed[group]].flatten().tolist()]
            inner = 0 if isinstance(layer, nn.Linear) else len(gates.graph.shapes[axis.tensor]) - 2
            dim = 1 if isinstance(layer, NORM) else output.dim() - 1 - inner
            found.append(_Output(output, group, dim, places))

    with ExitStack() as undo:
        for group in gates.graph.groups:
            for axis in group.tensors if group.name in closed else ():
                layer = _maker(gates.model, axis)
                if axis not in group.reads and layer is not None:
                    undo.callback(layer.register_forward_hook(partial(note, group.name, axis)).remove)
        yield found


def _maker(model: nn.Module, axis: Axis) -> nn.Module | None:
    """Return the layer that puts channels out along an axis of its weight; None for any other axis.

    Args:
        model: the network.
        axis: along which a group lies.
    """
    if not axis.tensor.endswith(".weight"):
        return None
    layer: Any = get_module(model, axis.module)
    if isinstance(layer, CONV) and layer.transposed:
        return layer if axis.dim == 1 and layer.groups == 1 else None
    return layer if axis.dim == 0 and isinstance(layer, (CONV, nn.Linear, NORM)) else None
