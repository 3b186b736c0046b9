"""Contexts of methods, for tests that need no network, and for those that need a small one."""

from types import SimpleNamespace

import torch
from torch import nn

import gdp
from gdp.gates import Gates
from gdp.methods import StepContext, Window

WINDOW = Window(start=10, last_selection=20, end=30, closing=10, selection_interval=1)


def at(gate_param, keep_mask=None, temperature=0.1, steps=15):
    """A step at which gates stand so; there is no network, so only what concerns gates can be asked."""
    gates = SimpleNamespace(gate_param=torch.tensor(gate_param), removed=torch.zeros(len(gate_param), dtype=torch.bool))
    mask = None if keep_mask is None else torch.tensor(keep_mask)
    return StepContext(gates, None, 0.5, WINDOW, mask, steps, temperature, False, 0.4)


def of_network(net: nn.Module, x: torch.Tensor, regrows: bool = False, **options) -> StepContext:
    """A step of a run with this network, whose gates are all open."""
    graph = gdp.trace(net, x, dry_run=False)
    gates: Gates = gdp.insert_gates(net, graph)
    found = {"allowed": 0.5, "keep_mask": torch.ones(len(gates.gate_param), dtype=torch.bool), "steps": 15} | options
    target = found.get("target", 0.4)
    now = (found["allowed"], WINDOW, found["keep_mask"], found["steps"], 0.1, regrows, target)
    return StepContext(gates, graph.flops, *now)
