"""Measure what pruning costs a training step: gdp, gates on activations and Torch-Pruning's regularizers against dense.

`--cases resnet20:32:128` is a network, the size of its images and the batch; `--watch 1` reads gradients every step.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import torch

import gdp
from benchmarks.common.machine import cpu_model, load, versions
from benchmarks.common.markdown import table
from benchmarks.step.overhead import TARGET, Bench
from benchmarks.step.profile import PARTS

CASES = [
    "resnet20:32:128",
    "resnet20:32:32",
    "resnet56:32:128",
    "resnet50:96:32",
    "resnet50:96:8",
    "mobilenet_v2:96:32",
]
WAITING = " On the host's clock, choosing waits for the kernels queued before it."
CASE = ["network", "images", "batch"]
OVERHEAD = [*CASE, "training", "s per step", "against dense", "min to max", "peak MiB", "peak against dense"]


def machine(device: str) -> str:
    """Return processor, load and versions.

    Args:
        device: "cpu" or "cuda".
    """
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    chip = f"{cpu_model()} CPU, {os.cpu_count()} cores, {load()} at the start"
    return f"{gpu}{chip}, 1 thread, {versions('torch', 'torchvision', 'torch-pruning')}"


def document(overhead: list[list[str]], parts: list[list[str]], where: str, options: argparse.Namespace) -> str:
    """Return the whole document.

    Args:
        overhead: rows of times and memory.
        parts: rows of what gdp's parts take.
        where: what `machine` returned.
        options: of the command line.
    """
    arguments = [a for a in sys.argv[1:] if a != str(options.write) and not a.startswith("--write")]
    return f"""# What pruning costs a training step

One step is zero_grad, forward, cross entropy, backward and SGD with momentum. **gdp** is in the middle of its window
with `target_flops={TARGET}`: gated weights, gradients read every {options.watch} steps, gates moved, channels chosen.
**Gates on activations** multiplies a learnable vector onto the input of the same layers. **Torch-Pruning** calls
`regularize` before the optimizer's step. All are trained in turns in one process, {options.repeats} steps each; a ratio
compares the seconds of a block of {2 * options.watch} steps with those of dense training in the same block: median over
the blocks, least and largest. Peak memory is that of live tensors in a step: parameters, buffers, optimizer state and
what the step allocates on top.

    {shlex.join(["python", "-m", "benchmarks.step", *arguments])}

{where}{", bfloat16 autocast" * options.amp}{", channels last" * options.channels_last}.

{table(OVERHEAD, overhead)}
## Where the time of gdp goes

Means over steps that hold readings and choices in their usual proportion, under torch.profiler, which slows small
operators down; the share is that of the step under the profiler.{WAITING * (options.device == "cuda")}

{table([*CASE, "clock", "step", *PARTS.values(), "together"], parts)}"""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="NAME:SIZE:BATCH")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--watch", type=int, default=gdp.Polar().gradient_interval)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--write", type=Path, help="the document to write, as docs/step_overhead.md; grows case by case"
    )
    options = parser.parse_args()
    if options.repeats < 2 * options.watch:
        parser.error(f"expected at least {2 * options.watch} repeats, one block, but got {options.repeats}")
    return options


def main() -> None:
    """Measure all cases, and write the document after each."""
    options = parse()
    torch.set_num_threads(1)
    where, overhead, parts = machine(options.device), [], []
    for case in options.cases:
        bench = Bench(case, options)
        overhead += bench.overhead()
        parts += bench.parts()
        if options.write:
            options.write.write_text(document(overhead, parts, where, options))
    print(document(overhead, parts, where, options))


if __name__ == "__main__":
    main()
