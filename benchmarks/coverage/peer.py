"""Put one network through Torch-Pruning: seconds for graph and groups, and whether the result runs and trains."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.common.timing import timed
from benchmarks.coverage.measure import SHARE, Record, outputs, train_step
from benchmarks.coverage.models import build, heads, other_inputs

PATIENCE = 60  # seconds for each step


@contextmanager
def _patience(seconds: int) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"no result after {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def groups_of(net: nn.Module, x: Tensor, ignored: list[nn.Module]) -> list[Any]:
    """Return every group of Torch-Pruning's dependency graph.

    Args:
        net: the network.
        x: its input.
        ignored: layers whose channels stay.
    """
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=x)
    return list(graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]))


def measure_peer(which: str, name: str, note: Callable[[Record], None]) -> Record:
    """Measure Torch-Pruning on one model: time graph and groups, prune 40 % of each layer, run it, train a step.

    Args:
        which: the suite the model belongs to.
        name: its name there.
        note: is told the record after every step, so that a crash leaves what was known.
    """
    record: Record = {"suite": which, "name": name}

    def reached(step: str, **values: Any) -> None:
        record.update(values, step=step)
        note(record)

    # build it, and say what has to stay and how attention is divided
    reached("build")
    net, (x,) = build(which, name)
    ignored = heads(net)
    attention = {m: m.num_heads for m in net.modules() if isinstance(m, nn.MultiheadAttention)}
    fused = [m for m in net.modules() if isinstance(getattr(m, "qkv", None), nn.Linear) and hasattr(m, "num_heads")]
    attention |= {m.qkv: m.num_heads for m in fused}

    reached("graph")
    with _patience(PATIENCE):
        groups, took = timed(lambda: groups_of(net, x, ignored))
    reached("prune", graph_s=took.wall, graph_cpu_s=took.cpu, groups=len(groups))
    with _patience(PATIENCE):
        importance = tp.importance.MagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(
            net, x, importance, pruning_ratio=SHARE, ignored_layers=ignored, num_heads=attention
        )
        pruner.step()
        for m in fused:  # as its examples for timm do
            m.num_heads = pruner.num_heads[m.qkv]
            if hasattr(m, "head_dim"):
                m.head_dim = m.qkv.out_features // (3 * m.num_heads)

    # what is left
    reached("run", parameters=sum(p.numel() for p in net.parameters()))
    outputs(net, (x,))
    reached("train")
    train_step(net, other_inputs((x,), 8, batch=2))
    reached("done")
    return record
