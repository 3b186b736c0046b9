"""Time networks, and convs one by one, on one CPU thread."""

from __future__ import annotations

import gc
import shlex
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

import gdp
from benchmarks.common.machine import cpu_model, versions
from benchmarks.common.timing import in_turns
from benchmarks.latency.convs import convs
from benchmarks.latency.networks import Network, Source, cut, dense
from benchmarks.latency.records import Record
from benchmarks.latency.runtimes import eager, prepared


def compare(networks: list[Network], runtime: str, batch: int, size: int, repeats: int) -> Record:
    """Time the networks in one runtime; where it can't run them, say why.

    Args:
        networks: the dense one first.
        runtime: one of RUNTIMES.
        batch: images per run.
        size: side of the images.
        repeats: as `in_turns` takes them.
    """
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
        for network, seconds in zip(networks, in_turns(calls, repeats), strict=True):
            told = {key: getattr(network, key) for key in ("name", "target", "flops", "parameters")}
            record["networks"].append(told | {"seconds": seconds})
    del calls
    gc.collect()
    return record


def networks_of(source: Source, names: list[str], targets: list[float]) -> tuple[list[Network], dict[str, str]]:
    """Return the dense network and all that are made from it, and those that can't be made, with the reason.

    Args:
        source: the dense network.
        names: how it is cut: "gdp-N" or "uniform-N".
        targets: fractions of the FLOPs that remain.
    """
    made, refused = [dense(source)], {}
    for target in targets:
        for name in names:
            try:
                made.append(cut(source, name, target))
            except gdp.GDPError as error:
                refused[f"{name} at {target}"] = str(error).split(". ")[0] + "."
    return made, refused


def by_layer(net: nn.Module, batch: int, size: int, repeats: int) -> Record:
    """Time every different conv at several widths, and the whole network.

    Args:
        net: in eval mode.
        batch: images per run.
        size: side of the images.
        repeats: as `in_turns` takes them.
    """
    with torch.inference_mode():
        x = torch.randn(batch, 3, size, size)
        layers = []
        for shape, names in convs(net, size).items():
            narrowed = [shape.narrowed(outs) for outs in shape.widths]
            calls = [eager(s.module(), torch.randn(batch, s.ins, s.height, s.width)) for s in narrowed]
            milliseconds = [1e3 * statistics.median(took) for took in in_turns(calls, repeats)]
            flops = [batch * s.flops for s in narrowed]
            layers.append({"layers": names, "shape": str(shape), "flops": flops, "ms": milliseconds})
        whole = 1e3 * statistics.median(in_turns([eager(net, x)], repeats)[0])
    return {"kind": "layers", "batch": batch, "runtime": "eager", "convs": layers, "ms": whole}


def machine() -> str:
    """Return the processor and the versions that matter."""
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{cpu_model()} ({capability}), {threads} thread, {versions('torch', 'torchvision', 'onnxruntime')}"


def command(module: str) -> str:
    """Return what was typed, without folders of this machine.

    Args:
        module: that was run.
    """
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *words])
