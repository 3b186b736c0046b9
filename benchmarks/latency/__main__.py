"""Of the FLOPs removed, how much inference time is saved? One CPU thread; networks take turns in every repeat.

    python -m benchmarks.latency --save runs/latency.json                              compares the networks
    python -m benchmarks.latency --sweep 0.8 0.6 0.5 0.4 0.2 --save runs/sweep.json    one network, several targets
    python -m benchmarks.latency --per-layer --save runs/layers.json                   one network, conv by conv
    python -m benchmarks.latency --load runs/*.json --write docs/latency.md            the document of all that

A run is kept as JSON, so that several make one document; an interrupted one keeps the networks it finished.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.latency.document import write
from benchmarks.latency.measure import by_layer, command, compare, machine, networks_of
from benchmarks.latency.networks import build, default_size, observed
from benchmarks.latency.records import Record, line
from benchmarks.latency.runtimes import RUNTIMES

MODELS = ["resnet50", "mobilenet_v2", "vgg16_bn", "regnet_y_400mf", "resnet56"]
VARIANTS = ["gdp-1", "gdp-8", "gdp-16", "uniform-1"]


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for; the file is written anew after every record.

    Args:
        options: of the command line.
    """
    alone = bool(options.sweep) or options.per_layer
    kind = "sweep" if options.sweep else "compare"
    runtimes = options.runtimes or (["eager"] if alone else ["eager", "compile", "onnxruntime"])
    runtimes += ["channels_last"] * options.channels_last
    run: dict[str, Any] = {"machines": [machine()], "commands": [command("benchmarks.latency")], "records": []}
    for model in options.models or (MODELS[:1] if alone else MODELS):
        size = options.size or default_size(model)
        # what every record says of the network
        net = build(model, options.weights)
        about: Record = {"model": model, "size": size, "steps": options.steps}
        about["weights"] = options.weights and options.weights.name

        def keep(record: Record, about: Record = about) -> None:
            run["records"].append(about | record)
            print(line(run["records"][-1]), flush=True)
            if options.save:
                options.save.parent.mkdir(parents=True, exist_ok=True)
                options.save.write_text(json.dumps(run))

        # its convs one by one, or networks that are made from it
        batches = options.batch_sizes or ([32] if alone else [1, 32])
        if options.per_layer:
            for batch in batches:
                keep(by_layer(net.eval(), batch, size, options.repeats))
            continue
        source = observed(net, size, options.steps, update=options.weights is None)
        networks, refused = networks_of(source, options.variants, options.sweep or [options.target])
        for runtime in runtimes:
            for batch in batches:
                keep({"kind": kind, "refused": refused} | compare(networks, runtime, batch, size, options.repeats))
    return run


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help=f"default: {' '.join(MODELS)}; with --sweep, --per-layer the first")
    parser.add_argument("--size", type=int, help="side of the images; default: what the network is made for")
    parser.add_argument("--weights", type=Path, help="file with a state dict, for one model; default: random weights")
    parser.add_argument(
        "--steps", type=int, default=50, help="training steps from which gdp learns the importance of channels"
    )
    parser.add_argument("--target", type=float, default=0.5, help="fraction of the FLOPs that remains")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="gdp-N or uniform-N: widths are multiples of N")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="default: all but channels_last; or eager")
    parser.add_argument("--channels-last", action="store_true", help="adds eager mode in this memory format")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: 1 32; with --sweep, --per-layer 32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sweep", type=float, nargs="+", help="targets")
    parser.add_argument("--per-layer", action="store_true", help="time convs instead of networks")
    parser.add_argument("--save", type=Path, help="JSON file for what is measured")
    parser.add_argument("--load", type=Path, nargs="+", help="measure nothing, read these files")
    parser.add_argument("--write", type=Path, help="the document; pictures are put beside it")
    options = parser.parse_args()
    if options.weights and len(options.models or []) != 1:
        parser.error("--weights belong to one network: name it with --models.")
    return options


def main() -> None:
    """Measure or load, and write the document if it is asked for."""
    options = parse()
    torch.set_num_threads(1)
    if options.load:
        runs = [json.loads(file.read_text()) for file in options.load]
        run = {key: [entry for run in runs for entry in run[key]] for key in ("machines", "commands", "records")}
    else:
        run = measured(options)
    if options.write:
        write(run, options.write)


if __name__ == "__main__":
    main()
