"""Compare a budget in measured milliseconds with one in FLOPs; the same selection spends either, on one CPU thread.

    python -m benchmarks.latency.cost --save runs/cost.json
    python -m benchmarks.latency.cost --load runs/cost*.json --write docs/latency_budget.md

A run is kept as JSON, so that several make one document; an interrupted one keeps the networks it finished.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from functools import partial
from itertools import product
from operator import sub
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import gdp
from benchmarks.common.timing import WARM_UP, in_turns, median_per_repeat
from benchmarks.latency.cost_document import KEYS, document, section, verdict
from benchmarks.latency.measure import command, machine
from benchmarks.latency.networks import Source, build, default_size, observed
from benchmarks.latency.records import Record
from benchmarks.latency.runtimes import Call, eager
from gdp.graph import FlopModel
from gdp.selection import WidthConstraints

MODELS = ["resnet50", "mobilenet_v2", "resnet56"]
UNIT = 1e-15  # seconds; coefficients are whole numbers, and an element of a linear layer takes a fraction of 1e-9


def cpu_seconds(calls: list[Call], repeats: int) -> list[list[float]]:
    """Return the CPU seconds of the process per run of every call, shape (calls, repeats).

    Args:
        calls: take turns, back and forth.
        repeats: as `in_turns` takes them.
    """
    turns = in_turns(calls, repeats, time.process_time, reference=len(calls) - 1)
    return [median_per_repeat(own, repeats) for own in turns]


@torch.inference_mode()
def layer_seconds(net: nn.Module, x: Tensor, repeats: int) -> tuple[float, dict[str, float]]:
    """Return the CPU seconds of one run and of every conv, linear and batch norm in it; medians over the runs.

    Args:
        net: in eval mode; it is left as it was.
        x: its input.
        repeats: as `in_turns` takes them.
    """
    net = copy.deepcopy(net)
    clock: dict[str, list[float]] = {}  # when a layer began and ended, in turn

    def note(name: str, *_: Any) -> None:
        clock.setdefault(name, []).append(time.process_time())

    for name, layer in net.named_modules():
        if layer is net or isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.register_forward_pre_hook(partial(note, name))
            layer.register_forward_hook(partial(note, name))
    cpu_seconds([eager(net, x)], repeats)
    took = {name: median(list(map(sub, t[1::2], t[::2]))[WARM_UP:]) for name, t in clock.items()}
    return took.pop(""), took


def latency_model(flops: FlopModel, seconds: dict[str, float]) -> FlopModel:
    """Return the same function of open counts in units of time.

    What a layer takes at full width is shared evenly by its elements. Terms of operators that are not in `seconds`
    (pooling, which fvcore counts) cost nothing.

    Args:
        flops: of the network.
        seconds: of its layers, by their names.
    """
    n = flops.lengths(flops.sizes)
    coef = (n[flops.row] * n[flops.col]).double().reciprocal() / UNIT
    coef *= torch.tensor([seconds.get(module, 0.0) for module in flops.modules], dtype=torch.float64)
    return replace(flops, const=0, coef=coef.round().long())


def pruned(source: Source, model: FlopModel, fraction: float, round_to: int) -> tuple[nn.Module, Tensor, float]:
    """Cut a copy of a network to a fraction of what a model counts.

    Args:
        source: the dense network.
        model: FLOPs or time as a function of open counts.
        fraction: of the model's count for the dense network.
        round_to: widths are multiples of it.

    Returns:
        The copy, its open counts, and the share of all importance that it keeps.
    """
    net, graph = copy.deepcopy(source.net), replace(source.graph, flops=model)
    pruner = gdp.Pruner(net, graph, fraction, constraints=WidthConstraints.of(graph, 1, round_to))
    pruner.method_state["importance"] = source.importance
    pruner.finish()
    is_open, total = pruner.gates.gate_param > 0, source.importance.sum()
    open_counts, kept = pruner.gates.open_counts, source.importance[is_open].sum() / total
    gdp.remove(net, source.graph, pruner.gates)
    return net.eval(), open_counts, float(kept)


def compare(source: Source, x: Tensor, options: argparse.Namespace) -> Record:
    """Time the layers, prune with both budgets in every setting, and time all networks together.

    Args:
        source: the dense network.
        x: its input.
        options: of the command line.
    """
    memory = torch.channels_last if options.channels_last else torch.contiguous_format
    x, dense = x.to(memory_format=memory), copy.deepcopy(source.net).to(memory_format=memory)
    whole, seconds = layer_seconds(dense, x, options.repeats)
    norms = {name: s for name, s in seconds.items() if isinstance(dense.get_submodule(name), nn.BatchNorm2d)}
    in_norms, in_all = sum(norms.values()), sum(seconds.values())
    rest = max(whole - in_all, 0.0)
    spent = {"convs": in_all - in_norms, "batch norms": in_norms, "the rest": rest}

    # the time of other operators is spread over the batch norms
    flops = source.graph.flops
    latency = latency_model(flops, seconds | {name: s * (1 + rest / in_norms) for name, s in norms.items()})

    # two networks per setting
    calls, networks = [eager(dense, x)], []
    for round_to, target in product(options.round_to, options.targets):
        fraction = target
        for budget, model in (("FLOPs", flops), ("ms", latency)):
            net, open_counts, kept = pruned(source, model, fraction, round_to)
            calls.append(eager(net.to(memory_format=memory), x))
            fraction = latency.count(open_counts) / latency.dense  # the budget in ms: as slow as the other is predicted
            told: Record = {
                "round_to": round_to,
                "target": target,
                "budget": budget,
                "open_counts": open_counts.tolist(),
            }
            shares = (fraction, flops.count(open_counts) / flops.dense, kept)
            networks.append(told | dict(zip(KEYS, shares, strict=True)))

    # all of them take turns
    with torch.inference_mode():
        took = cpu_seconds(calls, options.repeats)
    for network, own in zip(networks, took[1:], strict=True):
        network["time"] = [s / reference for s, reference in zip(own, took[0], strict=True)]
    return {"spent": spent, "networks": networks}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8], help="widths are multiples of it")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.35], help="fractions of the FLOPs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50, help="training steps from which gdp learns importance")
    parser.add_argument("--channels-last", action="store_true", help="networks and images in this memory format")
    parser.add_argument("--save", type=Path, help="JSON file for what is measured")
    parser.add_argument("--load", type=Path, nargs="+", help="measure nothing, read these files")
    parser.add_argument("--write", type=Path, help="the document")
    return parser.parse_args()


def main() -> None:
    """Measure or load, and write the document if it is asked for."""
    options = parse()
    torch.set_num_threads(1)
    run: Record = {"machines": [machine()], "commands": [command("benchmarks.latency.cost")], "records": []}
    if options.load:
        loaded = [json.loads(file.read_text()) for file in options.load]
        run = {key: [entry for other in loaded for entry in other[key]] for key in run}
    for model in [] if options.load else options.models:
        size = default_size(model)
        source = observed(build(model), size, options.steps, update=True)
        torch.manual_seed(2)
        title = f"{model}, {size}x{size}, batch {options.batch}{', channels last' * options.channels_last}"
        record: Record = {"title": title, "steps": options.steps, "repeats": options.repeats}
        record |= compare(source, torch.randn(options.batch, 3, size, size), options)
        run["records"].append(record)
        print(f"{section(record)}\n{verdict(record)}\n", flush=True)
        if options.save:
            options.save.parent.mkdir(parents=True, exist_ok=True)
            options.save.write_text(json.dumps(run))
    if options.write:
        options.write.write_text(document(run))


if __name__ == "__main__":
    main()
