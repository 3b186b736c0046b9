"""What a whole run costs: dense, gdp, gdp that cuts as it goes, and Torch-Pruning's recipe, trained side by side.

Prints a table and saves the run; `--write docs/training_cost.md RUN.json...` makes the document and its picture.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import torch
from benchmarks.training_cost_document import case_table, write
from benchmarks.training_cost_runs import CLASSES, SIDE, WAYS, Batch, Case, Dense, Record, accuracy, timed, train_epoch
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from gdp.utils import count_flops
from lightning_modules.classification import build
from lightning_modules.data import CIFAR_MEAN, CIFAR_STD

PADDING = 4
PACKAGES = ("torch", "torchvision", "torch-pruning", "fvcore")


def load(root: Path, split: str, limit: int) -> Batch:
    """Decode so many images of `root/split`, chosen at random but always the same."""
    folder = ImageFolder(root / split, T.Compose([T.Resize(SIDE), T.ToTensor(), T.Normalize(CIFAR_MEAN, CIFAR_STD)]))
    if limit > len(folder):
        raise ValueError(f"Expected at most the {len(folder)} images of '{split}', but got {limit}.")
    chosen = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    images, labels = zip(*(folder[i] for i in chosen), strict=True)
    return torch.stack(images), torch.tensor(labels)


def synthetic(limit: int) -> Batch:
    """Noise: for what does not depend on the images."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(limit, 3, SIDE, SIDE, generator=random), torch.randint(0, CLASSES, (limit,), generator=random)


def augmented(images: Batch, case: Case, seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch, cropped and flipped at random: the same for all ways."""
    random = torch.Generator().manual_seed(1000 * seed + epoch)
    order = torch.randperm(case.images, generator=random)[: case.steps * case.batch]
    return [_crop_and_flip(images, chosen, case, random) for chosen in order.split(case.batch)]


def _crop_and_flip(images: Batch, chosen: Tensor, case: Case, random: torch.Generator) -> Batch:
    x, y = images[0][chosen], images[1][chosen]
    down, right = torch.randint(0, 2 * PADDING + 1, (2, len(x)), generator=random)
    windows = F.pad(x, (PADDING,) * 4).unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    x = windows[torch.arange(len(x)), :, down, right]
    flip = torch.rand(len(x), 1, 1, 1, generator=random) < 0.5
    return case.scaled(torch.where(flip, x.flip(3), x).to(case.device)), y.to(case.device)


def machine(device: str) -> dict[str, Any]:
    """What the run ran on."""
    cpu = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": {p: version(p).partition("+")[0] for p in PACKAGES},
    }


def run(case: Case, seed: int, train: Batch, test: Batch | None) -> Iterator[dict[str, Record]]:
    """Train all ways in turns; yield their records after every epoch, and once more when all are finished.

    Every epoch begins with another way, so that none always goes first.
    """
    torch.manual_seed(seed)
    net = build(case.model, CLASSES)
    batches = augmented(train, case, seed, epoch=0)
    Dense(copy.deepcopy(net), case).step(*batches[0])  # what a process does once is nobody's cost
    ways, records = {}, {}
    for name, make in WAYS.items():
        ways[name], seconds = timed(partial(make, copy.deepcopy(net), case), case)
        records[name] = {"setup": seconds, "epochs": []}
    dense = count_flops(net, torch.randn(1, 3, case.size, case.size))
    for epoch in range(case.epochs):
        batches = augmented(train, case, seed, epoch)
        for i in range(len(ways)):
            name = list(ways)[(epoch + i) % len(ways)]
            records[name]["epochs"].append(train_epoch(ways[name], batches, epoch))
        yield records
    for name, way in ways.items():
        _, records[name]["finish"] = timed(way.finish, case)
        records[name]["remaining"] = count_flops(way.net, batches[0][0][:1]) / dense
        records[name]["accuracy"] = None if test is None else accuracy(way, test)
    yield records


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_cost", description=__doc__)
    types = get_type_hints(Case)
    for field in fields(Case):
        name = "--" + field.name.replace("_", "-")
        if types[field.name] is bool:
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=types[field.name], default=field.default)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/ and test/<class>/; noise without it")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--save", type=Path, help="JSON file, written after every seed")
    parser.add_argument("--write", type=Path, nargs="+", metavar="FILE", help="the document, then saved runs")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    """Run the case with every seed, save, and print the table."""
    case = Case(**{f.name: getattr(options, f.name) for f in fields(Case)})
    if case.steps < 2 or case.epochs < 2:
        raise ValueError(f"Expected two batches and two epochs at least, but got {case.steps} and {case.epochs}.")
    train = synthetic(case.images) if options.data is None else load(options.data, "train", case.images)
    test = None if options.data is None else load(options.data, "test", options.test_images)
    saved: dict[str, Any] = {
        "case": asdict(case),
        "test_images": 0 if test is None else len(test[1]),
        "machine": machine(case.device),
        "seeds": [],
    }
    for seed in range(options.seeds):
        for epoch, records in enumerate(run(case, seed, train, test), start=1):
            if epoch <= case.epochs:
                seconds = ", ".join(f"{name} {r['epochs'][-1]['steps']['wall']:.2f} s" for name, r in records.items())
                print(f"seed {seed}, epoch {epoch} of {case.epochs}: {seconds}", file=sys.stderr, flush=True)
        saved["seeds"].append(records)
        if options.save is not None:
            options.save.write_text(json.dumps(saved, indent=1))
    print(case_table(saved))


def main() -> None:
    options = parse()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if options.write is not None:
        document, *runs = options.write
        write(document, [json.loads(r.read_text()) for r in runs])
    else:
        measure(options)


if __name__ == "__main__":
    main()
