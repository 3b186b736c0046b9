"""Of the FLOPs removed, how much inference time is saved? One CPU thread; networks take turns in every repeat.

    python -m benchmarks.latency --save runs/latency.json                              compares the networks
    python -m benchmarks.latency --sweep 0.8 0.6 0.5 0.4 0.2 --save runs/sweep.json    one network, several targets
    python -m benchmarks.latency --per-layer --save runs/layers.json                   one network, conv by conv
    python -m benchmarks.latency --load runs/*.json --write docs/latency.md            the document of all that

A run is kept as JSON, so that several make one document; an interrupted one keeps the networks it finished.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

import gdp
from benchmarks.latency_networks import Network, Source, build, convs, cut, default_size, dense, observed
from benchmarks.latency_plot import Record, line, write

MODELS = ["resnet50", "mobilenet_v2", "vgg16_bn", "regnet_y_400mf", "resnet56"]
VARIANTS = ["gdp-1", "gdp-8", "gdp-16", "uniform-1"]
WARM_UP = 2  # runs that are not measured
TURN = 0.02  # seconds at least; of short runs, as many are timed together
REPEAT = 0.2  # seconds at least; of short turns, as many make a repeat
TOLERANCE = 1e-3  # relative; what runtimes may differ by

Call = Callable[[], Tensor]


def eager(net: nn.Module, x: Tensor) -> Call:
    return lambda: net(x)


def channels_last(net: nn.Module, x: Tensor) -> Call:
    net, x = copy.deepcopy(net).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return lambda: net(x)


def compiled(net: nn.Module, x: Tensor) -> Call:
    fast = torch.compile(net, dynamic=False)
    return lambda: fast(x)


def onnx(net: nn.Module, x: Tensor) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one; it is several times as fast
        file = Path(folder, "net.onnx")
        torch.onnx.export(net, (x,), file, dynamo=False, verbose=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], Call]] = {
    "eager": eager,
    "channels_last": channels_last,
    "compile": compiled,
    "onnxruntime": onnx,
}


def interleaved(calls: list[Call], repeats: int) -> list[list[float]]:
    """Seconds per run of every call, shape (calls, turns); they take turns back and forth."""
    for _ in range(WARM_UP):
        start = time.perf_counter()
        calls[0]()
        once = time.perf_counter() - start
        for call in calls[1:]:
            call()
    runs = max(1, round(TURN / once))
    took: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats * max(1, round(REPEAT / (runs * once)))):
        for i in range(len(calls)) if turn % 2 else reversed(range(len(calls))):
            start = time.perf_counter()
            for _ in range(runs):
                calls[i]()
            took[i].append((time.perf_counter() - start) / runs)
    return took


def prepared(runtime: str, networks: list[Network], x: Tensor) -> list[Call]:
    """The networks in a runtime, each having run once and computed what it computes in eager mode."""
    calls = []
    for network in networks:
        call = RUNTIMES[runtime](network.net, x)
        expected, found = network.net(x), call()
        error = float((found - expected).abs().max() / expected.abs().max())
        assert error <= TOLERANCE, f"{runtime} differs from eager by {error:.1e} on {network.name} at {network.target}"
        calls.append(call)
    return calls


def compare(networks: list[Network], runtime: str, batch: int, size: int, repeats: int) -> Record:
    """Time the networks in one runtime; where it can't run them, say why."""
    torch.manual_seed(2)
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 4 * len(networks)  # they share the code of `forward`
    record: Record = {"batch": batch, "runtime": runtime, "networks": []}
    with torch.inference_mode():
        x = torch.randn(batch, 3, size, size)
        try:
            calls = prepared(runtime, networks, x)
        except AssertionError:
            raise
        except Exception as error:  # whatever a runtime raises is its answer
            return record | {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        for network, seconds in zip(networks, interleaved(calls, repeats), strict=True):
            told = {key: getattr(network, key) for key in ("name", "target", "flops", "parameters")}
            record["networks"].append(told | {"seconds": seconds})
    del calls
    gc.collect()
    return record


def networks_of(source: Source, names: list[str], targets: list[float]) -> tuple[list[Network], dict[str, str]]:
    """The dense network and all that are made from it; those that can't be, with the reason."""
    made, refused = [dense(source)], {}
    for target in targets:
        for name in names:
            try:
                made.append(cut(source, name, target))
            except gdp.GDPError as error:
                refused[f"{name} at {target}"] = str(error).split(". ")[0] + "."
    return made, refused


def by_layer(net: nn.Module, batch: int, size: int, repeats: int) -> Record:
    """Time every different conv at several widths, and the whole network."""
    with torch.inference_mode():
        x = torch.randn(batch, 3, size, size)
        layers = []
        for shape, names in convs(net, size).items():
            narrowed = [shape.narrowed(outs) for outs in shape.widths]
            calls = [eager(s.module(), torch.randn(batch, s.ins, s.height, s.width)) for s in narrowed]
            milliseconds = [1e3 * statistics.median(took) for took in interleaved(calls, repeats)]
            flops = [batch * s.flops for s in narrowed]
            layers.append({"layers": names, "shape": str(shape), "flops": flops, "ms": milliseconds})
        whole = 1e3 * statistics.median(interleaved([eager(net, x)], repeats)[0])
    return {"kind": "layers", "batch": batch, "runtime": "eager", "convs": layers, "ms": whole}


def machine() -> str:
    """The processor and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), platform.machine())
    packages = ", ".join(f"{p} {version(p).split('+')[0]}" for p in ("torch", "torchvision", "onnxruntime"))
    return f"{model} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} thread, {packages}"


def command() -> str:
    """What was typed, without folders of this machine."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "benchmarks.latency", *words])


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for; the file is written anew after every record."""
    alone = bool(options.sweep) or options.per_layer
    kind = "sweep" if options.sweep else "compare"
    runtimes = options.runtimes or (["eager"] if alone else ["eager", "compile", "onnxruntime"])
    runtimes += ["channels_last"] * options.channels_last
    run: dict[str, Any] = {"machines": [machine()], "commands": [command()], "records": []}
    for model in options.models or (MODELS[:1] if alone else MODELS):
        size = options.size or default_size(model)
        net = build(model, options.weights)
        about: Record = {"model": model, "size": size, "steps": options.steps}
        about["weights"] = options.weights and options.weights.name

        def keep(record: Record, about: Record = about) -> None:
            run["records"].append(about | record)
            print(line(run["records"][-1]), flush=True)
            if options.save:
                options.save.parent.mkdir(parents=True, exist_ok=True)
                options.save.write_text(json.dumps(run))

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help=f"default: {' '.join(MODELS)}; with --sweep, --per-layer the first")
    parser.add_argument("--size", type=int, help="side of the images; default: what the network is made for")
    parser.add_argument("--weights", type=Path, help="file with a state dict, for one model; default: random weights")
    parser.add_argument(
        "--steps", type=int, default=50, help="training steps from which gdp learns what channels are worth"
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
