"""The budget in measured time: what every layer takes on this device, in place of its FLOPs."""

from __future__ import annotations

import copy
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from gdp.errors import GDPError
from gdp.graph import ChannelGraph, FlopModel
from gdp.utils import CONV, clone_inputs, get_module, in_mode, under_plain_names

RUNS = 5  # measured, after two that are not
UNITS = 2**50  # of the whole network's time: the model counts in integers


def latency_model(model: nn.Module, graph: ChannelGraph, device: torch.device | str = "cpu") -> FlopModel:
    """A cost model like `graph.flops` that counts time instead of FLOPs.

    Every conv, linear and norm is timed in a forward pass of the example input in eval mode, median of five; its terms
    get that time in proportion to their FLOPs. What lies between these layers (activations, additions) is bound by
    memory as norms are, and is spread over them. The unit is the whole pass divided by 2^50.

    Args:
        model: the dense network; it is left as it was.
        graph: what `trace` found in it; its example input decides the batch size.
        device: where time is measured.

    Raises:
        GDPError: no time was measured.
    """
    device = torch.device(device)
    here = next(model.parameters()).device.type == device.type
    seconds, total = _measured(model if here else copy.deepcopy(model).to(device), graph, device)
    flops = graph.flops
    length = flops.lengths(flops.sizes)
    elements: Counter[str] = Counter()
    for layer, count in zip(flops.modules, (flops.coef * length[flops.row] * length[flops.col]).tolist(), strict=True):
        elements[layer] += count
    timed = {layer: seconds[layer] for layer in elements if layer in seconds}
    spread = [layer for layer in timed if not isinstance(get_module(model, layer), WEIGHTED)] or list(timed)
    if not timed or sum(timed[layer] for layer in spread) <= 0:
        raise GDPError(f"No layer of {type(model).__name__} could be timed; let the budget count FLOPs: cost='flops'.")
    rest = max(0.0, total - sum(timed.values())) / sum(timed[layer] for layer in spread)
    price = {layer: timed.get(layer, 0.0) * (1 + rest * (layer in spread)) / elements[layer] for layer in elements}
    coef = [round(UNITS / total * price[m] * c) for m, c in zip(flops.modules, flops.coef.tolist(), strict=True)]
    return replace(flops, const=0, coef=torch.tensor(coef))


WEIGHTED = (CONV, nn.Linear)


def _measured(model: nn.Module, graph: ChannelGraph, device: torch.device) -> tuple[dict[str, float], float]:
    """Seconds of every layer, and of the whole forward pass."""
    layers = {
        name: m for name, m in under_plain_names(model.named_modules()).items() if name in set(graph.flops.modules)
    }
    began: dict[str, float] = {}
    spent: dict[str, float] = {}

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def start(name: str) -> None:
        began[name] = now()

    def stop(name: str) -> None:
        spent[name] = spent.get(name, 0.0) + now() - began[name]

    found, totals = [], []
    with ExitStack() as stack:
        for context in (in_mode(model, training=False), torch.no_grad(), torch.compiler.set_stance("force_eager")):
            stack.enter_context(context)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(lambda *_, name=name: start(name)).remove)
            stack.callback(layer.register_forward_hook(lambda *_, name=name: stop(name)).remove)
        inputs = clone_inputs(model, graph.inputs)
        for _ in range(2 + RUNS):
            spent.clear()
            begin = now()
            model(*inputs)
            totals.append(now() - begin)
            found.append(dict(spent))
    return {name: median(run.get(name, 0.0) for run in found[2:]) for name in layers}, median(totals[2:])
