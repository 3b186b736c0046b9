"""Train all ways side by side, and measure what every epoch costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.common.memory import peak_rise, state_bytes
from benchmarks.common.timing import timed
from benchmarks.training_cost.case import CLASSES, Batch, Case, augmented
from benchmarks.training_cost.ways import WAYS, Dense
from gdp.utils import count_flops
from lightning_modules.classification import build

EVALUATED = 500  # test images per forward pass

Record = dict[str, Any]


def run(case: Case, seed: int, train: Batch, test: Batch | None) -> Iterator[dict[str, Record]]:
    """Train all ways in turns; yield their records after every epoch, and once more when all are finished.

    Every epoch begins with another way, so that none always goes first.

    Args:
        case: what is trained.
        seed: of weights and batches.
        train: images to train on.
        test: images to test on; None if they are noise.
    """
    # the same weights for all
    torch.manual_seed(seed)
    net = build(case.model, CLASSES)
    batches = augmented(train, case, seed, epoch=0)
    Dense(copy.deepcopy(net), case).step(*batches[0])  # what a process does once is nobody's cost
    ways, records = {}, {}
    for name, make in WAYS.items():
        ways[name], took = timed(partial(make, copy.deepcopy(net), case), case.device)
        records[name] = {"setup": took._asdict(), "epochs": []}
    dense = count_flops(net, torch.randn(1, 3, case.size, case.size))

    # an epoch of each in turns
    for epoch in range(case.epochs):
        batches = augmented(train, case, seed, epoch)
        for i in range(len(ways)):
            name = list(ways)[(epoch + i) % len(ways)]
            records[name]["epochs"].append(train_epoch(ways[name], batches, epoch))
        yield records

    # what comes after training
    for name, way in ways.items():
        records[name]["finish"] = timed(way.finish, case.device)[1]._asdict()
        records[name]["remaining"] = count_flops(way.net, batches[0][0][:1]) / dense
        records[name]["accuracy"] = None if test is None else accuracy(way, test)
    yield records


def train_epoch(way: Dense, batches: list[Batch], epoch: int) -> Record:
    """Train on the batches; the last step is watched by a profiler, so the others stand for its time.

    Args:
        way: how it trains.
        batches: of the epoch.
        epoch: counted from 0.
    """
    case, n, x = way.case, len(batches), batches[0][0][:1]
    early = min(max(way.pause - epoch * n, 0), n)
    first = count_flops(way.net, x)
    way.net.train()
    _, took = timed(lambda: [way.step(*batch) for batch in batches[:-1]], case.device)
    memory = peak_memory(way, batches[-1])
    then = count_flops(way.net, x) if 0 < early < n else first
    _, cut = timed(partial(way.after_epoch, epoch + 1), case.device)
    return {
        "steps": {clock: s * n / (n - 1) for clock, s in took._asdict().items()},
        "cut": cut._asdict(),
        "flops": 3 * case.batch * (first * early + then * (n - early)),
        "memory": memory,
    }


def peak_memory(way: Dense, batch: Batch) -> int:
    """Make a step; return the bytes of network and optimizer state plus the most that is alive on top of them.

    Args:
        way: how it trains.
        batch: what it trains on.
    """
    held = state_bytes(way.net, way.optimizer)
    return held + peak_rise(lambda: way.step(*batch), torch.device(way.case.device))


@torch.no_grad()
def accuracy(way: Dense, images: Batch) -> float:
    """Return the test accuracy in percent.

    Args:
        way: whose network it is.
        images: to test on.
    """
    way.net.eval()
    hits = 0
    for x, y in zip(*(t.split(EVALUATED) for t in images), strict=True):
        with way.case.autocast():
            scores = way.net(way.case.scaled(x.to(way.case.device)))
        hits += int((scores.argmax(1).cpu() == y).sum())
    return 100 * hits / len(images[1])
