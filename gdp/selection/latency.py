"""Measure how long every layer takes on a device, for a budget in time instead of FLOPs."""

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
from gdp.utils import CONV, arguments, clone_inputs, get_module, in_mode, under_plain_names

RUNS = 5  # forward passes that are timed
WARM_UP_RUNS = 2  # forward passes before these, which are not
UNITS = 2**50  # parts that the time of a whole forward pass is divided into, since the model counts in integers
WEIGHTED = (CONV, nn.Linear)  # layers that get none of the time that passes between layers


def latency_model(model: nn.Module, graph: ChannelGraph, device: torch.device | str = "cpu") -> FlopModel:
    """Return a cost model like `graph.flops` that counts time instead of FLOPs.

    Every conv, linear and norm is timed in forward passes of the example input in eval mode, median of five; its terms
    get that time in proportion to their FLOPs. The operators between these layers (activations, additions) are bound
    by memory as norms are, so their time is spread over the norms. The unit is the time of the whole pass divided by
    2^50.

    Args:
        model: the dense network; it is left as it was.
        graph: of the network; its example input decides the batch size.
        device: where time is measured.

    Returns:
        The terms of `graph.flops` with other coefficients, and no constant.

    Raises:
        GDPError: no time was measured.
    """
    device = torch.device(device)
    is_there = next(model.parameters()).device.type == device.type
    seconds, total = _measure_seconds(model if is_there else copy.deepcopy(model).to(device), graph, device)

    # FLOPs of every layer, each of which may have several terms
    flops = graph.flops
    length = flops.lengths(flops.sizes)
    layer_flops: Counter[str] = Counter()
    for layer, count in zip(flops.modules, (flops.coef * length[flops.row] * length[flops.col]).tolist(), strict=True):
        layer_flops[layer] += count

    # the time between layers is spread over the norms, in proportion to theirs; over all layers if there are no norms
    timed = {layer: seconds[layer] for layer in layer_flops if layer in seconds}
    spread = [layer for layer in timed if not isinstance(get_module(model, layer), WEIGHTED)] or list(timed)
    if not timed or sum(timed[layer] for layer in spread) <= 0:
        raise GDPError(f"No layer of {type(model).__name__} could be timed; let the budget count FLOPs: cost='flops'.")
    rest = max(0.0, total - sum(timed.values())) / sum(timed[layer] for layer in spread)
    seconds_per_flop = {
        layer: timed.get(layer, 0.0) * (1 + rest * (layer in spread)) / layer_flops[layer] for layer in layer_flops
    }

    terms = zip(flops.modules, flops.coef.tolist(), strict=True)
    coef = [round(UNITS / total * seconds_per_flop[layer] * c) for layer, c in terms]
    return replace(flops, const=0, coef=torch.tensor(coef))


def _measure_seconds(model: nn.Module, graph: ChannelGraph, device: torch.device) -> tuple[dict[str, float], float]:
    """Return the seconds that every layer takes, by plain names, and those of the whole forward pass; both medians.

    Args:
        model: the network, on the device.
        graph: of the network; its example input is run, and the layers of its FLOPs are timed.
        device: where the network is.
    """
    modules = under_plain_names(model, model.named_modules())
    layers = {name: m for name, m in modules.items() if name in set(graph.flops.modules)}
    started_at: dict[str, float] = {}
    spent: dict[str, float] = {}  # in this pass; a layer may be called several times

    def now() -> float:
        """Return the time in seconds once everything that was asked of the device is done."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def start(name: str) -> None:
        """Note when a layer begins."""
        started_at[name] = now()

    def stop(name: str) -> None:
        """Add the seconds since a layer began to those it has taken in this pass."""
        spent[name] = spent.get(name, 0.0) + now() - started_at[name]

    layer_seconds, totals = [], []  # per forward pass
    with ExitStack() as stack:
        # clocks before and after every layer; all of it is undone on leaving
        for context in (in_mode(model, training=False), torch.no_grad(), torch.compiler.set_stance("force_eager")):
            stack.enter_context(context)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(lambda *_, name=name: start(name)).remove)
            stack.callback(layer.register_forward_hook(lambda *_, name=name: stop(name)).remove)

        args, kwargs = arguments(model, clone_inputs(model, graph.inputs))
        for _ in range(WARM_UP_RUNS + RUNS):
            spent.clear()
            pass_started_at = now()
            model(*args, **kwargs)
            totals.append(now() - pass_started_at)
            layer_seconds.append(dict(spent))
    measured = layer_seconds[WARM_UP_RUNS:]
    return {name: median(run.get(name, 0.0) for run in measured) for name in layers}, median(totals[WARM_UP_RUNS:])
