"""Four ways to train one network: dense, gdp, gdp that cuts as it goes, Torch-Pruning's recipe; what an epoch costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

import gdp
from gdp.surgery import freeze_uncuttable_groups
from gdp.utils import count_flops

CLASSES = 10
SIDE = 32  # images are cropped and flipped at this size, and scaled to what the network sees after that
EVALUATED = 500  # test images per forward pass

Batch = tuple[Tensor, Tensor]
Record = dict[str, Any]
Seconds = dict[str, float]


@dataclass(frozen=True)
class Case:
    """What is trained, for how long, and where. Learning rates are the peaks of their cycles."""

    model: str = "resnet20"
    size: int = 32
    batch: int = 128
    epochs: int = 30
    images: int = 4096
    target: float = 0.4
    lr: float = 0.1
    tune_lr: float = 0.1
    tp_steps: int = 200
    device: str = "cpu"
    amp: bool = False
    channels_last: bool = False

    @property
    def steps(self) -> int:
        """Steps per epoch; the last images that fill no batch are left out."""
        return self.images // self.batch

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def scaled(self, x: Tensor) -> Tensor:
        """Images of SIDE as the network sees them."""
        if self.size != SIDE:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear")
        return x.to(memory_format=self.memory_format)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Dense:
    """A network in training, and where the ways to prune it hook in.

    Attributes:
        pause: the step of the run that also makes the network smaller, within an epoch; 0 for none.
    """

    pause = 0

    def __init__(self, net: nn.Module, case: Case) -> None:
        self.net, self.case = net, case
        self.prepare(torch.randn(1, 3, case.size, case.size))
        self.net.to(case.device, memory_format=case.memory_format)
        self.start(case.lr, case.epochs)

    def start(self, lr: float, epochs: int) -> None:
        """Begin a phase of training: a new optimizer, one cycle of the learning rate."""
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, lr, total_steps=epochs * self.case.steps, pct_start=0.2, cycle_momentum=False
        )

    def step(self, x: Tensor, y: Tensor) -> None:
        with self.case.autocast():
            loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.after_backward()
        self.optimizer.step()
        self.scheduler.step()
        self.after_step()
        self.optimizer.zero_grad()

    def prepare(self, x: Tensor) -> None: ...
    def after_backward(self) -> None: ...
    def after_step(self) -> None: ...
    def after_epoch(self, epochs: int) -> None: ...
    def finish(self) -> None: ...


class Gated(Dense):
    """gdp; what GDPCallback calls, in a plain loop."""

    def __init__(self, net: nn.Module, case: Case, shrink: bool) -> None:
        self.shrink = shrink
        super().__init__(net, case)

    def prepare(self, x: Tensor) -> None:
        graph = freeze_uncuttable_groups(self.net, gdp.trace(self.net, x))
        self.pruner = gdp.Pruner(self.net, graph, self.case.target, self.case.epochs * self.case.steps)
        end = self.pruner.window[2]
        self.pause = end if self.shrink and end % self.case.steps else 0

    def after_backward(self) -> None:
        self.pruner.watch()

    def after_step(self) -> None:
        self.pruner.step()
        if self.pruner.steps == self.pause:
            self.pruner.shrink([self.optimizer])

    def after_epoch(self, epochs: int) -> None:
        if self.shrink:
            self.pruner.shrink([self.optimizer])

    def finish(self) -> None:
        self.pruner.finish()
        gdp.remove(self.net, self.pruner.graph, self.pruner.gates, [self.optimizer])


class PrunedHalfway(Dense):
    """Torch-Pruning: train for half of the epochs, prune in small steps to the target, fine-tune for the other half."""

    def after_epoch(self, epochs: int) -> None:
        half = self.case.epochs // 2
        if epochs == half:
            self.net.eval()
            self._prune(torch.randn(1, 3, self.case.size, self.case.size, device=self.case.device))
            self.start(self.case.tune_lr, self.case.epochs - half)

    def _prune(self, x: Tensor) -> None:
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(
            self.net,
            x,
            importance,
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=self.case.tp_steps,
            ignored_layers=_ignored(self.net),
        )
        dense = tp.utils.count_ops_and_params(self.net, x)[0]
        while tp.utils.count_ops_and_params(self.net, x)[0] > self.case.target * dense:
            pruner.step()


def _ignored(net: nn.Module) -> list[nn.Module]:
    """The class scores, and the streams of resnet20 and resnet56, whose padded shortcuts Torch-Pruning can't follow."""
    layers = dict(net.named_modules())
    if "linear" not in layers:
        return [m for m in layers.values() if isinstance(m, nn.Linear) and m.out_features == CLASSES]
    stream = [m for name, m in layers.items() if name.startswith("layer") and name.endswith("conv2")]
    return [layers["linear"], layers["conv1"], *stream]


WAYS: dict[str, Callable[[nn.Module, Case], Dense]] = {
    "dense": Dense,
    "gdp, cut at the end": partial(Gated, shrink=False),
    "gdp, cut every epoch": partial(Gated, shrink=True),
    "Torch-Pruning": PrunedHalfway,
}


def timed(call: Callable[[], Any], case: Case) -> tuple[Any, Seconds]:
    """The result, and wall and CPU seconds."""
    case.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    case.synchronize()
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def train_epoch(way: Dense, batches: list[Batch], epoch: int) -> Record:
    """Train on the batches; the last step is watched by a profiler, so the others stand for its time."""
    case, n, x = way.case, len(batches), batches[0][0][:1]
    early = min(max(way.pause - epoch * n, 0), n)
    first = count_flops(way.net, x)
    way.net.train()
    _, seconds = timed(lambda: [way.step(*batch) for batch in batches[:-1]], case)
    memory = peak_memory(way, batches[-1])
    then = count_flops(way.net, x) if 0 < early < n else first
    _, cut = timed(partial(way.after_epoch, epoch + 1), case)
    return {
        "steps": {clock: s * n / (n - 1) for clock, s in seconds.items()},
        "cut": cut,
        "flops": 3 * case.batch * (first * early + then * (n - early)),
        "memory": memory,
    }


def peak_memory(way: Dense, batch: Batch) -> int:
    """Make a step; return the bytes of network and optimizer state plus the most that is alive on top of them."""
    state = [t for values in way.optimizer.state.values() for t in values.values() if isinstance(t, Tensor)]
    held = sum(t.nbytes for t in (*way.net.parameters(), *way.net.buffers(), *state))
    if way.case.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way.step(*batch)
        return held + torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        way.step(*batch)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return held + max(accumulate((e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), initial=0))


@torch.no_grad()
def accuracy(way: Dense, images: Batch) -> float:
    """Test accuracy in percent."""
    way.net.eval()
    hits = 0
    for x, y in zip(*(t.split(EVALUATED) for t in images), strict=True):
        with way.case.autocast():
            scores = way.net(way.case.scaled(x.to(way.case.device)))
        hits += int((scores.argmax(1).cpu() == y).sum())
    return 100 * hits / len(images[1])
