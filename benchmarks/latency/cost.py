"""Would a budget in measured milliseconds win over one in FLOPs? The same selection spends either; one CPU thread.

    python -m benchmarks.latency_cost --save runs/cost.json
    python -m benchmarks.latency_cost --load runs/cost*.json --write docs/latency_budget.md

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
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

import gdp
from benchmarks.coverage_document import table
from benchmarks.latency import REPEAT, TURN, WARM_UP, Call, command, eager, machine
from benchmarks.latency_networks import BATCH, CLASSES, Source, build, default_size, observed
from benchmarks.latency_plot import Record
from gdp.graph import FlopModel
from gdp.selection import WidthConstraints

MODELS = ["resnet50", "mobilenet_v2", "resnet56"]
UNIT = 1e-15  # seconds; coefficients are whole numbers, and an element of a linear layer takes a fraction of 1e-9
MORE = 0.005  # share of the worth that milliseconds must keep on top of what FLOPs keep
KEYS = ["predicted", "FLOPs", "worth kept"]


def cpu_seconds(calls: list[Call], repeats: int) -> list[list[float]]:
    """CPU seconds of the process per run of every call, shape (calls, repeats); they take turns back and forth."""
    for call in calls * WARM_UP:
        start = time.process_time()
        call()
    once = time.process_time() - start
    runs = max(1, round(TURN / once))
    turns = max(1, round(REPEAT / (runs * once)))
    took: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats * turns):
        for i in range(len(calls)) if turn % 2 else reversed(range(len(calls))):
            start = time.process_time()
            for _ in range(runs):
                calls[i]()
            took[i].append((time.process_time() - start) / runs)
    return [[median(own[i : i + turns]) for i in range(0, len(own), turns)] for own in took]


@torch.inference_mode()
def layer_seconds(net: nn.Module, x: Tensor, repeats: int) -> tuple[float, dict[str, float]]:
    """CPU seconds of one run and of every conv, linear and batch norm in it; medians over the runs."""
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
    """The same function of open counts in units of time: what a layer takes at full width, shared by its elements.

    Terms of operators that are not in `seconds` (pooling, which fvcore counts) cost nothing.
    """
    n = flops.lengths(flops.sizes)
    coef = (n[flops.row] * n[flops.col]).double().reciprocal() / UNIT
    coef *= torch.tensor([seconds.get(module, 0.0) for module in flops.modules], dtype=torch.float64)
    return replace(flops, const=0, coef=coef.round().long())


def pruned(source: Source, model: FlopModel, fraction: float, round_to: int) -> tuple[nn.Module, Tensor, float]:
    """A copy cut to a fraction of what the model counts, its open counts, and the share of the worth that it keeps."""
    net, graph = copy.deepcopy(source.net), replace(source.graph, flops=model)
    pruner = gdp.Pruner(net, graph, fraction, constraints=WidthConstraints.of(graph, 1, round_to))
    pruner.method_state["importance"] = source.worth
    pruner.finish()
    opened, kept = pruner.gates.open_counts, source.worth[pruner.gates.gate_param > 0].sum() / source.worth.sum()
    gdp.remove(net, source.graph, pruner.gates)
    return net.eval(), opened, float(kept)


def compare(source: Source, x: Tensor, options: argparse.Namespace) -> Record:
    """Time the layers, prune with both budgets in every setting, and time all networks together."""
    memory = torch.channels_last if options.channels_last else torch.contiguous_format
    x, dense = x.to(memory_format=memory), copy.deepcopy(source.net).to(memory_format=memory)
    whole, seconds = layer_seconds(dense, x, options.repeats)
    norms = {name: s for name, s in seconds.items() if isinstance(dense.get_submodule(name), nn.BatchNorm2d)}
    in_norms, in_all = sum(norms.values()), sum(seconds.values())
    rest = max(whole - in_all, 0.0)
    spent = {"convs": in_all - in_norms, "batch norms": in_norms, "the rest": rest}
    flops = source.graph.flops
    latency = latency_model(flops, seconds | {name: s * (1 + rest / in_norms) for name, s in norms.items()})
    calls, networks = [eager(dense, x)], []
    for round_to, target in product(options.round_to, options.targets):
        fraction = target
        for budget, model in (("FLOPs", flops), ("ms", latency)):
            net, opened, kept = pruned(source, model, fraction, round_to)
            calls.append(eager(net.to(memory_format=memory), x))
            fraction = latency.count(opened) / latency.dense  # the budget in ms: as slow as the other is predicted
            told: Record = {"round_to": round_to, "target": target, "budget": budget, "opened": opened.tolist()}
            shares = (fraction, flops.count(opened) / flops.dense, kept)
            networks.append(told | dict(zip(KEYS, shares, strict=True)))
    with torch.inference_mode():
        took = cpu_seconds(calls, options.repeats)
    for network, own in zip(networks, took[1:], strict=True):
        network["time"] = [s / reference for s, reference in zip(own, took[0], strict=True)]
    return {"spent": spent, "networks": networks}


def section(record: Record) -> str:
    """What the times of layers add up to, how far predictions were from the measured times, and all networks."""
    networks, total = record["networks"], sum(record["spent"].values())
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in record["spent"].items())
    off = {key: fmean(abs(n[key] - median(n["time"])) for n in networks) for key in KEYS[:2]}
    rows = []
    for i, n in enumerate(networks):
        measured = f"{median(n['time']):.3f} ({min(n['time']):.3f} to {max(n['time']):.3f})"
        budget = n["budget"] + ": the same network" * (i % 2 and n["opened"] == networks[i - 1]["opened"])
        rows.append([str(n["round_to"]), f"{n['target']:g}", budget, measured, *(f"{n[key]:.3f}" for key in KEYS)])
    return f"""The dense network takes {1e3 * total:.1f} ms: {shares}.
Mean absolute error of predicted latency: {off["predicted"]:.3f} of that; of FLOPs, read as time: {off["FLOPs"]:.3f}.

{table(["round_to", "target", "budget", "time (lowest to highest)", *KEYS], rows)}"""


def verdict(record: Record) -> str:
    """Milliseconds win if they are no slower and keep more worth in every setting."""
    pairs = list(zip(record["networks"][::2], record["networks"][1::2], strict=True))
    longer = [median(ms["time"]) - median(flops["time"]) for flops, ms in pairs]
    more = [ms["worth kept"] - flops["worth kept"] for flops, ms in pairs]
    won = [median(ms["time"]) <= max(flops["time"]) and m > MORE for (flops, ms), m in zip(pairs, more, strict=True)]
    words = "milliseconds win" if all(won) else "no clear win"
    change = f"time {min(longer):+.3f} to {max(longer):+.3f}, worth kept {min(more):+.3f} to {max(more):+.3f}"
    return f"{record['title']}: {words}, {sum(won)} of {len(won)} settings ({change})"


def document(run: Record) -> str:
    """The document of all records."""
    records, commands = run["records"], "\n".join(f"    {typed}" for typed in dict.fromkeys(run["commands"]))
    steps, repeats = ("/".join(map(str, sorted({r[key] for r in records}))) for key in ("steps", "repeats"))
    verdicts = "\n".join(f"- {verdict(record)}" for record in records)
    head = f"""# A budget in milliseconds

Would a budget in measured milliseconds win over one in FLOPs? Milliseconds against FLOPs, at the same predicted
latency, as fractions of the dense network's:

{verdicts}

Milliseconds win if in every setting the measured time is no longer (its median is at most the highest time of the
network pruned by FLOPs) and the worth kept is higher by more than {MORE}.

{commands}

{"; ".join(dict.fromkeys(run["machines"]))}

- **ms**: convs, linears and batch norms of the dense network are timed at this batch; the time of other operators is
  spread over the batch norms. A layer's time is shared evenly by its elements (channels in x channels out of a conv),
  and the selection that otherwise spends FLOPs spends it. The budget is the latency predicted in this way for the
  network that was pruned to the target in **FLOPs**.
- **time** is relative to the dense network in the same repeat, median of {repeats}; CPU time of the process, in eager
  mode. Networks take turns; of short runs, several make a turn, and several turns a repeat (their median).
- **Worth** is what gdp ranks channels by, learned in {steps} steps of SGD from random weights on {CLASSES} blurred
  patterns in noise, {BATCH} images a step; channels were then closed at once. No accuracy belongs to these networks.
"""
    return "\n".join([head, *(f"## {record['title']}\n\n{section(record)}" for record in records)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8], help="widths are multiples of it")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.35], help="fractions of the FLOPs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50, help="training steps from which gdp learns worth")
    parser.add_argument("--channels-last", action="store_true", help="networks and images in this memory format")
    parser.add_argument("--save", type=Path, help="JSON file for what is measured")
    parser.add_argument("--load", type=Path, nargs="+", help="measure nothing, read these files")
    parser.add_argument("--write", type=Path, help="the document")
    options = parser.parse_args()
    torch.set_num_threads(1)
    typed = command().replace("latency", "latency_cost", 1)
    run: Record = {"machines": [machine()], "commands": [typed], "records": []}
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
