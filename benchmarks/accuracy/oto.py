"""Train with OTO (Only Train Once, arXiv 2305.18030) for the comparison of benchmarks.accuracy, at its size "smoke".

OTO needs a PyTorch that is too old for gdp. Run `python -m benchmarks.accuracy.oto --data data/cifar10` with what `pip
install torch==2.1.2 torchvision==0.16.2 "numpy<2" only_train_once==3.0.1 packaging fvcore pytorch-lightning` gives.

Its optimizer HESSO takes the share of channels to remove, not of FLOPs to keep. So the steps in which it prunes are run
with several shares, and training goes on from the one that leaves the FLOPs asked for; those trials are not counted.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path
from unittest import mock

import torch
from fvcore.nn import FlopCountAnalysis
from only_train_once import OTO
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.accuracy.data import BATCH, Images, load, loader
from benchmarks.accuracy.networks import NETWORKS

warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")  # asked for the rate of a given step

SIDE, IMAGES, EPOCHS, WIDTH = 16, 20000, 6, 0.25  # those of "smoke"
LR = {"resnet20": 0.4, "vgg16": 0.2}  # those of benchmarks.accuracy.ways
EPOCH, STEPS = IMAGES // BATCH, IMAGES // BATCH * EPOCHS
START, PERIODS = round(STEPS / 10), 10  # OTO's tutorial: start after a tenth, prune for a fourth or a fifth of the run
PRUNING = STEPS // 4 // PERIODS * PERIODS
TRIALS, CLOSE = 4, 0.95  # how often it may prune, and what part of the target is close enough
UNPRUNABLE = ["bn1.weight"]  # the streams of resnet20: OTO takes all three, which differ in width, for one group
HEADER = "size,model,start,budget,way,target,seed,epochs,steps,remains,val,test,training_flops,seconds"


def flops(net: nn.Module, x: Tensor) -> int:
    """Return the multiply-adds of one image, as gdp counts them.

    Args:
        net: it is left as it was.
        x: one image, shape (1, 3, side, side).
    """
    return int(FlopCountAnalysis(copy.deepcopy(net).eval(), x).unsupported_ops_warnings(False).total())


@torch.no_grad()
def accuracy(net: nn.Module, images: Images) -> float:
    """Return the top-1 accuracy in percent, in float32.

    Args:
        net: in eval mode.
        images: to test on.
    """
    return 100 * sum(int((net(x).argmax(1) == y).sum()) for x, y in loader(images, False)) / len(images)


class Run:
    """Train one network with OTO.

    Args:
        model: which of NETWORKS.
        seed: of weights and batches.
        images: to train on.
    """

    def __init__(self, model: str, seed: int, images: Images) -> None:
        self.images, self.step, self.lr = images, 0, LR[model]
        torch.manual_seed(1000 + seed)
        self.net: nn.Module = NETWORKS[model](WIDTH)
        torch.manual_seed(seed)
        self.batches = [batch for _ in range(EPOCHS) for batch in torch.randperm(IMAGES).split(BATCH)[:EPOCH]]
        self.x = images[0][0][None]
        self.dense = flops(self.net, self.x)
        self.optimizer = self._optimizer(0.5)

    def _oto(self, net: nn.Module) -> OTO:
        oto = OTO(net, self.x)
        oto.mark_unprunable_by_param_names(UNPRUNABLE)
        return oto

    def _optimizer(self, share: float) -> torch.optim.Optimizer:
        return self._oto(self.net).hesso(
            variant="sgd", lr=self.lr, first_momentum=0.9, weight_decay=5e-4, target_group_sparsity=share,
            start_pruning_step=START, pruning_steps=PRUNING, pruning_periods=PERIODS,
        )  # fmt: skip

    def fork(self, share: float) -> Run:
        """Return a copy, in the state this one is in, that will remove another share of the channels.

        Args:
            share: fraction of the channels to remove.
        """
        other = copy.copy(self)
        other.net = copy.deepcopy(self.net)
        other.optimizer = other._optimizer(share)
        other.optimizer.num_steps = self.optimizer.num_steps
        other.optimizer.first_moment_grads = {k: v.clone() for k, v in self.optimizer.first_moment_grads.items()}
        return other

    def train(self, until: int) -> Run:
        """Train up to that step of one cycle of the learning rate, and return this run.

        Args:
            until: number of steps since the beginning.
        """
        self.net.train()
        cycle = OneCycleLR(self.optimizer, self.lr, STEPS, pct_start=0.2, cycle_momentum=False)
        with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):  # HESSO moves one mask to the GPU
            for step in range(self.step, until):
                x, y = self.images.__getitems__(self.batches[step].tolist())
                with torch.autocast("cpu", torch.bfloat16):
                    loss = nn.functional.cross_entropy(self.net(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                cycle.step(step)
                self.optimizer.step()
        self.step = until
        return self

    def pruned(self) -> nn.Module:
        """Return the network without its zero channels, built by OTO."""
        oto = self._oto(copy.deepcopy(self.net))
        with tempfile.TemporaryDirectory() as folder:
            oto.construct_subnet(out_dir=folder)
            return torch.load(oto.compressed_model_path).eval()

    def reaching(self, target: float) -> Run:
        """Return a copy that has pruned to the target: the best of a few trials.

        A share leaves 1 - share ** power of the FLOPs; after every trial the power comes nearer to that trial's.

        Args:
            target: fraction of the dense FLOPs that may remain.
        """
        power, trials = 2.0, []
        for _ in range(TRIALS):
            share = (1 - (1 + CLOSE) / 2 * target) ** (1 / power)
            trial = self.fork(share).train(START + PRUNING + 1)
            left = flops(trial.pruned(), self.x) / self.dense
            trials.append((left <= target, -abs(target - left), trial))
            if CLOSE * target <= left <= target:
                break
            power += (math.log(1 - left) / math.log(share) - power) / 2  # half: a trial depends on chance, too
        return max(trials, key=lambda found: found[:2])[-1]


def main() -> None:
    """Append one row per network, seed and target to the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/ images")
    parser.add_argument("--models", nargs="+", choices=LR, default=list(LR))
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.3, 0.15])
    parser.add_argument("--seeds", nargs=2, type=int, default=[0, 5], help="the first, and the one after the last")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy.csv"))
    options = parser.parse_args()

    # the steps before pruning are shared by all targets
    torch.set_num_threads(1)
    data = load(options.data, SIDE, IMAGES)
    for seed, model in product(range(*options.seeds), options.models):
        run = Run(model, seed, data["train"])
        run.train(START)
        for target in options.targets:
            began = time.perf_counter()
            torch.manual_seed(seed)
            net = run.reaching(target).train(STEPS).pruned()
            row = ["smoke", model, "scratch", "epochs", "OTO", target, seed, float(EPOCHS), STEPS]
            row += [
                flops(net, run.x) / run.dense,
                accuracy(net, data["val"]),
                accuracy(net, data["test"]),
                float(STEPS),
                time.perf_counter() - began,
            ]
            print(row, flush=True)
            with options.out.open("a", newline="") as file:
                csv.writer(file).writerows([row] if file.tell() else [HEADER.split(","), row])


if __name__ == "__main__":
    main()
