"""Collect the activations of the layers that read channel groups, to compare a cut network with a gated one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from gdp.graph import ChannelGraph, CutPlan
from gdp.utils import get_module


@contextmanager
def mean_activations(
    model: nn.Module, graph: ChannelGraph, has: CutPlan, wanted: CutPlan
) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the mean magnitude of every channel that the readers of the groups put out.

    They show a wrong cut where the outputs of the network can't: the few channels that are left behind it may all be
    zero (a ReLU of negative numbers). Layers whose results nothing uses are passed over.

    Args:
        model: the network.
        graph: its channel groups.
        has: the plan by which the network is cut now.
        wanted: the plan whose channels are to be reported; it keeps no others than `has` does.

    Yields:
        Name of the weight of a reader and magnitudes, shape (channels left by `wanted`,), in the order of calls; filled
        when `forward` runs, with those of its last pass.
    """
    found: list[tuple[str, Tensor]] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        """Add the magnitudes of an output of a layer, whose weight has this name."""
        rows = range(graph.shapes[name][0])
        now, then = (plan.keep.get(name, {}).get(0, rows) for plan in (has, wanted))
        place = {row: i for i, row in enumerate(now)}
        dim = output.dim() - 1 - (0 if isinstance(layer, nn.Linear) else len(graph.shapes[name]) - 2)
        magnitude = output.detach().abs().movedim(dim, 0).reshape(len(now), -1).mean(1)
        found.append((name, magnitude[[place[row] for row in then]]))

    undo = ExitStack()
    undo.callback(model.register_forward_pre_hook(lambda *_: found.clear()).remove)
    readers = dict.fromkeys(axis.tensor for group in graph.groups for axis in group.reads)
    for name in (name for name in readers if name not in graph.unused_weights):
        layer = get_module(model, name.rpartition(".")[0])
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and name.endswith("weight"):
            hook = layer.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))
            undo.callback(hook.remove)
    with undo:
        yield found
