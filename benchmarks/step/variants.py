"""The ways to train a network that are compared: dense, gated weights, gated activations, regularizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from gdp.graph import ChannelGraph

PEERS = {
    "GroupNormPruner": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2)),
    "BNScalePruner": (tp.pruner.BNScalePruner, tp.importance.BNScaleImportance()),
}


@dataclass
class Variant:
    """Hold one way to train.

    Attributes:
        name: of the way.
        net: the network; it is put into train mode.
        before: is called between backward and the optimizer's step.
        after: is called after the optimizer's step.
    """

    name: str
    net: nn.Module
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.net.train()  # Torch-Pruning leaves networks in eval mode
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=0.9)


def gate_activations(net: nn.Module, graph: ChannelGraph) -> None:
    """Multiply a learnable gate per channel onto the input of every layer that gdp gates.

    Args:
        net: changed in place.
        graph: what `gdp.trace` found in it.
    """

    def multiply(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * module.gate.to(inputs[0].dtype),)

    for name in {axis.module for group in graph.groups for axis in group.reads}:
        module: Any = net.get_submodule(name)
        shape = (module.in_features,) if isinstance(module, nn.Linear) else (1, module.in_channels, 1, 1)
        module.gate = nn.Parameter(torch.ones(shape, device=module.weight.device))
        module.register_forward_pre_hook(multiply)


def regularized(name: str, net: nn.Module, x: Tensor) -> Variant:
    """Make a variant with sparse training as in Torch-Pruning's README.

    Args:
        name: which of PEERS.
        net: the network.
        x: a batch.
    """
    pruner, importance = PEERS[name]
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    peer = pruner(net, x[:1], importance=importance, ignored_layers=[head])
    peer.update_regularizer()
    return Variant(f"Torch-Pruning, `{name}`", net, before=lambda: peer.regularize(net))
