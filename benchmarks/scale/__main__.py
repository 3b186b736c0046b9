"""Measure how gdp's costs grow with the size of the network and with the number of processes."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks.common.machine import cpu_model, load, versions
from benchmarks.scale import processes, size_chapter
from benchmarks.scale.size import networks

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def machine() -> str:
    """Return processor, load and versions."""
    cores = f"{os.cpu_count()} cores, {load()} at the end, one thread per process"
    return f"{cpu_model()}, {cores}; {versions('torch', 'torchvision')}"


def main() -> None:
    """Measure what is asked for, print it, and write the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--part", choices=["size", "processes", "all"], default="all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="of the part on size")
    parser.add_argument("--largest", type=int, default=250_000, help="leave out chains of more channels")
    parser.add_argument("--steps", type=int, default=60, help="training steps of the part on processes")
    parser.add_argument("--write", type=Path, help="the document; its picture lies beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = ""
    if options.part != "processes":
        svg = (options.write or Path("runs/scale.md")).with_suffix(".svg")
        text += "\n" + size_chapter.chapter(networks(options.repeats, options.largest, CLOCKS[options.clock]), svg)
    if options.part != "size":
        text += "\n" + processes.chapter(options.steps)
    asked = {k: v for k, v in vars(options).items() if k != "write" and v != parser.get_default(k)}
    flags = "".join(f" --{key} {value}" for key, value in asked.items())
    text = f"# Scale\n\n    python -m benchmarks.scale{flags} --write docs/scale.md\n\n{machine()}.\n{text}"
    print(text)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(text)


if __name__ == "__main__":
    main()
