"""The methods of the comparison: each makes a small trained network of a network, a target and a number of steps."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import MobileNetV2

import gdp
from benchmarks.accuracy.data import BATCH, Images
from benchmarks.accuracy.gdp_methods import METHODS, VARIANTS
from benchmarks.accuracy.jobs import Job
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.peers import PEERS, cut, regularizer
from benchmarks.accuracy.training import Size, accuracy, fit
from gdp.utils import count_flops

# The highest learning rates, the best of 0.05, 0.1, 0.2 and 0.4 on held-out images: of training from scratch, chosen
# with the dense network, and of training on after pruning, and from trained weights, chosen with Torch-Pruning.
LR = {"resnet20": 0.4, "resnet56": 0.4, "vgg16": 0.2, "mobilenetv2": 0.2}
TUNE_LR = 0.1
OURS = METHODS | VARIANTS


def suited(size: Size, model: str) -> Size:
    """Return the size with the precision that is the fastest for a network.

    Args:
        size: of the comparison.
        model: which of NETWORKS.
    """
    if model == "mobilenetv2" and not torch.cuda.is_available():
        return replace(size, precision="32-true")  # depthwise convs of bfloat16 are slower on a CPU
    return size


def network(job: Job, size: Size, weights: Path | None) -> nn.Module:
    """Build the dense network that a job starts from.

    Args:
        job: decides model and seed.
        size: decides the width.
        weights: file with a state dict; default: random weights.
    """
    torch.manual_seed(1000 + job.seed)
    net: nn.Module = NETWORKS[job.model](size.width)
    if weights is not None:
        net.load_state_dict(torch.load(weights, weights_only=True))
    return net.to(memory_format=torch.channels_last)


def baseline(job: Job, data: dict[str, Images], size: Size, given: Path, cache: Path) -> Path:
    """Train weights from elsewhere on with the images of this comparison, and return the file that has them.

    Args:
        job: decides model, seed and steps.
        data: what `load` returns.
        size: of the comparison.
        given: file with a state dict.
        cache: folder of the file; what is there already is not trained anew.
    """
    path = cache / f"{job.model}-{size.side}-{size.images}-{job.steps}-baseline.pt"
    if not path.exists():
        net = network(job, size, given)
        torch.manual_seed(job.seed)
        fit(net, data, suited(size, job.model), job.steps, TUNE_LR)
        torch.save(net.cpu().state_dict(), path)
    return path


def thinned(net: nn.Module, images: Images, target: float) -> nn.Module:
    """Return the network with all channel groups narrowed alike, and fresh weights.

    Args:
        net: cut in place.
        images: one of them is the example input.
        target: fraction of the FLOPs that may remain.
    """
    x = images[0][0][None].cpu()
    graph = gdp.trace(net, x)
    gates = gdp.insert_gates(net, graph)

    # the largest fraction of all widths that stays within the target
    sizes, low, high = graph.flops.sizes, 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        counts = (sizes * middle).round().long().clamp_min(1)
        low, high = (middle, high) if graph.flops.count(counts) <= target * graph.flops.dense else (low, middle)
    counts = (sizes * low).round().long().clamp_min(1)
    gates.close_all({g.name: list(range(int(n), g.size)) for g, n in zip(graph.groups, counts, strict=True)})
    gdp.remove(net, graph, gates)

    # fresh weights, as the networks' own constructors make them
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
            if not isinstance(layer, nn.BatchNorm2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out" if isinstance(net, MobileNetV2) else "fan_in")
            if isinstance(net, MobileNetV2) and isinstance(layer, nn.Linear):  # as torchvision has it
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)
    return net


def run(job: Job, data: dict[str, Images], size: Size, cache: Path, weights: Path | None) -> dict[str, Any]:
    """Train and prune; return what is left, and how good it is on held-out and on test images.

    Args:
        job: what is run.
        data: what `load` returns.
        size: of the comparison.
        cache: folder for networks after a first phase that several jobs share.
        weights: file with a state dict to start from.
    """
    return judged(job, *trained(job, data, size, cache, weights), data, size)


def trained(
    job: Job, data: dict[str, Images], size: Size, cache: Path, weights: Path | None = None
) -> tuple[nn.Module, int]:
    """Train and prune; return the small network, and the FLOPs of all training steps.

    Args:
        job: what is run; its way is one of this comparison, or the name of one of gdp's methods.
        data: what `load` returns.
        size: of the comparison.
        cache: folder for networks after a first phase that several jobs share.
        weights: file with a state dict to start from.
    """
    size = suited(size, job.model)
    net = network(job, size, weights)
    lr = LR[job.model] if job.start == "scratch" else TUNE_LR
    torch.manual_seed(job.seed)
    if job.way == "dense":
        return net, fit(net, data, size, job.steps, lr)
    if job.way == "uniform":
        net = thinned(net, data["train"], job.target)
        return net, fit(net, data, size, job.steps, LR[job.model])
    if job.way in PEERS:
        flops = int(job.target * count_flops(net, data["train"][0][0][None].cpu()))
        return _pruned_halfway(job, net, data, size, cache, lr, flops)
    callback = gdp.GDPCallback(job.target, **OURS.get(job.way, {"method": job.way}))
    return net, fit(net, data, size, job.steps, lr, [callback])


def judged(job: Job, net: nn.Module, spent: int, data: dict[str, Images], size: Size) -> dict[str, Any]:
    """Return what is left of the FLOPs, accuracies, and the training FLOPs in steps of the dense network.

    Args:
        job: what was run.
        net: its network, as training has left it.
        spent: FLOPs of all training steps.
        data: what `load` returns.
        size: of the comparison.
    """
    x = data["train"][0][0][None].cpu()
    dense = count_flops(NETWORKS[job.model](size.width), x)
    return {
        "remains": count_flops(net, x) / dense,
        "val": accuracy(net, data["val"]),
        "test": accuracy(net, data["test"]),
        "training_flops": spent / (3 * BATCH * dense),
    }


def _pruned_halfway(
    job: Job, net: nn.Module, data: dict[str, Images], size: Size, cache: Path, lr: float, flops: int
) -> tuple[nn.Module, int]:
    """Follow Torch-Pruning's recipe: half of the steps before pruning, half after it.

    All of them come after it, if the job starts from trained weights and needs no sparse training.
    """
    regular = PEERS[job.way][1] > 0
    before = 0 if job.start == "trained" and not regular else job.steps // 2
    name = job.way if regular else "dense"
    place = f"{job.model}-{size.side}-{size.images}-{job.start}-{job.seed}-{job.steps}-{size.precision}-{name}"
    kept = cache / f"{place.replace(' ', '_')}.pt"

    # the first phase, or what another job has left of it
    spent = 0
    if before and kept.exists():
        net, spent = copy.deepcopy(torch.load(kept, weights_only=False))
    elif before:
        callbacks = regularizer(job.way, net, data["train"]) if regular else []
        spent = fit(net, data, size, before, lr, callbacks)
        net.cpu()
        fresh = kept.with_suffix(f".{os.getpid()}")
        torch.save((net, spent), fresh)
        fresh.replace(kept)  # at once, as other processes may read it

    # the second phase
    torch.manual_seed(job.seed)
    cut(job.way, net, data["train"], flops)
    return net, spent + fit(net, data, size, job.steps - before, TUNE_LR)
