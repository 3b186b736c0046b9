"""OTO (Only Train Once, arXiv 2305.18030) in the comparison of benchmarks.accuracy, at its size "smoke".

OTO needs an older PyTorch than gdp, so this file runs in an environment of its own and imports nothing of gdp:

    python3.11 -m venv oto
    oto/bin/pip install "torch==2.1.*" "torchvision==0.16.*" "numpy<2" only_train_once==3.0.1 packaging fvcore
    oto/bin/pip install "pytorch-lightning>=2.5" torchmetrics
    oto/bin/python -m benchmarks.accuracy_oto --data data/cifar10

Its optimizer HESSO takes the share of channels to remove, not of FLOPs to keep. So the steps in which it prunes are run
with several shares, and training goes on from the one that leaves the FLOPs asked for; those trials are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fvcore.nn import FlopCountAnalysis
from only_train_once import OTO
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy_data import BATCH, Images, load, loader
from benchmarks.accuracy_networks import NETWORKS

SIDE, IMAGES, EPOCHS, WIDTH = 16, 20000, 6, 0.25  # those of "smoke"
LR, WARMUP, MOMENTUM, WEIGHT_DECAY = {"resnet20": 0.4, "vgg16": 0.2}, 0.2, 0.9, 5e-4
START, PRUNING, PERIODS = 0.1, 0.25, 10  # parts of the run before and while it prunes, as OTO's tutorial suggests
TRIALS, CLOSE = 8, 0.97  # how often it may prune, and what part of the target is close enough
# The streams of resnet20, whose padded shortcuts OTO takes for one group of 64 channels; it fails when it prunes them
UNPRUNABLE = ["bn1.weight"]


def flops(net: nn.Module, x: Tensor) -> int:
    """Multiply-adds of one image, as gdp.flops counts them."""
    count = FlopCountAnalysis(copy.deepcopy(net).eval(), x)
    return int(count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


class Run:
    """One network that OTO trains.

    Args:
        model: which of NETWORKS.
        seed: of weights and batches.
        images: to train on.
    """

    def __init__(self, model: str, seed: int, images: Images) -> None:
        self.model, self.images, self.step = model, images, 0
        torch.manual_seed(1000 + seed)
        self.net: nn.Module = NETWORKS[model](WIDTH)
        torch.manual_seed(seed)
        epoch = len(images) // BATCH
        order = [torch.randperm(len(images))[: epoch * BATCH].view(epoch, BATCH) for _ in range(EPOCHS)]
        self.batches = torch.cat(order).tolist()
        self.x = images[0][0][None]
        self.dense = flops(self.net, self.x)
        schedule = torch.optim.SGD(self.net.parameters(), LR[model])
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            schedule, LR[model], len(self.batches), pct_start=WARMUP, cycle_momentum=False
        )
        self.rates = []
        for _ in self.batches:
            self.rates.append(cycle.get_last_lr()[0])
            schedule.step()
            cycle.step()
        self.start = round(START * len(self.batches))
        self.pruning = round(PRUNING * len(self.batches)) // PERIODS * PERIODS
        self.optimizer = self._optimizer(0.5)

    def _oto(self, net: nn.Module) -> OTO:
        with contextlib.redirect_stdout(io.StringIO()):
            oto = OTO(net, self.x)
        oto.mark_unprunable_by_param_names(UNPRUNABLE)
        return oto

    def _optimizer(self, share: float) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return self._oto(self.net).hesso(
                variant="sgd", lr=LR[self.model], first_momentum=MOMENTUM, weight_decay=WEIGHT_DECAY,
                target_group_sparsity=share, start_pruning_step=self.start, pruning_steps=self.pruning,
                pruning_periods=PERIODS,
            )  # fmt: skip

    def fork(self, share: float) -> Run:
        """A copy, in the state this one is in, that will remove another share of the channels."""
        other = copy.copy(self)
        other.net = copy.deepcopy(self.net)
        other.optimizer = other._optimizer(share)
        other.optimizer.num_steps = self.optimizer.num_steps
        other.optimizer.first_moment_grads = {k: v.clone() for k, v in self.optimizer.first_moment_grads.items()}
        return other

    def train(self, until: int) -> Run:
        """Train up to that step."""
        self.net.train()
        with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):  # HESSO moves one mask to the GPU
            for self.step in range(self.step, until):
                x, y = self.images.__getitems__(self.batches[self.step])
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(self.net(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.set_learning_rate(self.rates[self.step])
                self.optimizer.step()
        self.step = until
        return self

    def pruned(self) -> nn.Module:
        """The network without its zero channels, built by OTO."""
        oto = self._oto(copy.deepcopy(self.net))
        with tempfile.TemporaryDirectory() as folder:
            oto.construct_subnet(out_dir=folder)
            net: nn.Module = torch.load(oto.compressed_model_path)
        return net.eval()

    def remains(self) -> float:
        """Part of the dense FLOPs that is left."""
        return flops(self.pruned(), self.x) / self.dense

    def reaching(self, target: float) -> Run:
        """A copy that has pruned to the target: interpolation between shares that leave too much and too little."""
        (low, much), (high, little) = (0.0, 1.0), (1.0, 0.0)
        best, most = self, 0.0
        for _ in range(TRIALS):
            share = low + (high - low) * (much - (1 + CLOSE) / 2 * target) / (much - little)
            trial = self.fork(share).train(self.start + self.pruning + 1)
            left = trial.remains()
            if most < left <= target:
                best, most = trial, left
            if most >= CLOSE * target:
                break
            if left > target:
                low, much = share, left
            else:
                high, little = share, left
        if best is self:
            raise RuntimeError(f"OTO left more than {target} of the FLOPs in all {TRIALS} trials.")
        return best


@torch.no_grad()
def accuracy(net: nn.Module, images: Images) -> float:
    """Top-1 in percent, in float32."""
    return 100 * sum(int((net(x).argmax(1) == y).sum()) for x, y in loader(images, False)) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--models", nargs="+", choices=LR, default=list(LR))
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.3, 0.15])
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 5], help="the first, and the one after the last")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load(options.data, SIDE, IMAGES)
    for seed in range(*options.seeds):
        for model in options.models:
            run = Run(model, seed, data["train"])
            run.train(run.start)
            for target in options.targets:
                began = time.perf_counter()
                torch.manual_seed(seed)
                steps = len(run.batches)
                net = run.reaching(target).train(steps).pruned()
                row = {
                    "size": "smoke", "model": model, "start": "scratch", "budget": "epochs", "way": "OTO",
                    "target": target, "seed": seed, "steps": steps, "remains": flops(net, run.x) / run.dense,
                    "val": accuracy(net, data["val"]), "test": accuracy(net, data["test"]),
                    "training_flops": float(steps), "seconds": time.perf_counter() - began,
                }  # fmt: skip
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
                fresh = not options.out.exists()
                with options.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, row)
                    if fresh:
                        writer.writeheader()
                    writer.writerow(row)


if __name__ == "__main__":
    main()
