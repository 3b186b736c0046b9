"""One network through Torch-Pruning: seconds for graph and groups, and whether the result runs and trains."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.coverage_measure import SHARE, Record, outputs, timed, train_step
from benchmarks.coverage_models import build, heads, other_input

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
    """Every group of its dependency graph."""
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=x)
    return list(graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]))


def measure_peer(which: str, name: str, note: Callable[[Record], None]) -> Record:
    """Torch-Pruning on one model: graph and groups timed, 40 % of each layer pruned, a forward pass, a train step."""
    record: Record = {"set": which, "name": name}

    def reached(step: str, **values: Any) -> None:
        record.update(values, step=step)
        note(record)

    reached("build")
    net, x = build(which, name)
    ignored = heads(net)
    attention = {m: m.num_heads for m in net.modules() if isinstance(m, nn.MultiheadAttention)}
    fused = [m for m in net.modules() if isinstance(getattr(m, "qkv", None), nn.Linear) and hasattr(m, "num_heads")]
    attention |= {m.qkv: m.num_heads for m in fused}

    reached("graph")
    with _patience(PATIENCE):
        cpu = time.process_time()
        groups, seconds = timed(lambda: groups_of(net, x, ignored))
        cpu = time.process_time() - cpu
    reached("prune", graph_s=seconds, graph_cpu_s=cpu, groups=len(groups))
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
    reached("run", parameters=sum(p.numel() for p in net.parameters()))
    outputs(net, x)
    reached("train")
    train_step(net, other_input(x, 8, batch=2))
    reached("done")
    return record
