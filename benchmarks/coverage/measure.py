"""Put one network through gdp: what is timed and compared, and the numbers that come out."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import gdp
from benchmarks.common.machine import version_of
from benchmarks.common.timing import timed
from benchmarks.coverage.models import build, other_inputs, prepare
from benchmarks.coverage.packages import package_of
from gdp.gates import Gates
from gdp.selection import lowest_flops
from gdp.surgery import freeze_uncuttable_groups
from gdp.tracing import trace_channels
from gdp.utils import Inputs, clone_inputs, count_flops, match_weights, output_tensors

TOLERANCE = 1e-5  # relative; what a cut network may differ by from the gated one
CONTROL = 10 * TOLERANCE  # what one closed group left open, and another input, have to change at least
FAR = 100  # and how many times what the removal changed
SHARE = 0.4  # of the channels of every group are closed, chosen at random
GROUPS_OPENED = 3  # tries of the control: the group that shows least may hardly matter, but not all of them

Record = dict[str, Any]


def measure(which: str, name: str, note: Callable[[Record], None] = lambda _: None) -> Record:
    """Measure everything about gdp on one model; in float64 again where float32 can't decide.

    Args:
        which: the suite the model belongs to.
        name: its name there.
        note: is told the record after every step, so that a crash leaves what was known.
    """
    record = _measure(which, name, torch.float32, note)
    if record["error"] > TOLERANCE:
        again = _measure(which, name, torch.float64, lambda _: None)
        record |= {"error_float32": record["error"]} | {k: again[k] for k in ("error", "dtype", "opened", "input")}
    return record


def _measure(which: str, name: str, dtype: torch.dtype, note: Callable[[Record], None]) -> Record:
    record: Record = {"suite": which, "name": name, "dtype": str(dtype).removeprefix("torch.")}

    def reached(step: str, **values: Any) -> None:
        record.update(values, step=step)
        note(record)

    reached("build")
    net, inputs = build(which, name)
    record["parameters"] = sum(p.numel() for p in net.parameters())
    if which == "packages" and dtype is torch.float32:  # first of all, so that nothing that a check needs is known yet
        reached("check", version=version_of(package_of(name)))
        _, took = timed(lambda: gdp.check(net, inputs))
        record.update(check_s=took.wall, check_cpu_s=took.cpu)
    reached("trace")
    graph, took = timed(lambda: trace_channels(net, inputs))
    shape, groups = list(inputs[0].shape), len(graph.groups)
    reached("prepare", trace_s=took.wall, trace_cpu_s=took.cpu, groups_traced=groups, input_shape=shape)
    prepare(net, inputs)
    if dtype is torch.float64:
        net = net.double()
        inputs = match_weights(net, inputs)
        graph = trace_channels(net, inputs)

    # groups that can't be cut are frozen after a dry run
    reached("dry run")
    passes = []
    hook = net.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        graph, took = timed(lambda: freeze_uncuttable_groups(net, graph))
    finally:
        hook.remove()
    reached("count", dry_run_s=took.wall, dry_run_forwards=len(passes), groups=len(graph.groups))

    # how much can go at most
    dense = count_flops(net, inputs)
    frozen = Counter(f.reason for f in graph.frozen)
    removable = 1 - lowest_flops(graph.with_dense_flops(dense)) / dense
    reached("close", flops=dense, removable=removable, frozen=dict(frozen.most_common()))

    # close a part of every group, and see that the comparison would find an error
    gates = gdp.insert_gates(net, graph)
    random = torch.Generator().manual_seed(5)
    for group in graph.groups:
        closed = min(round(SHARE * group.size), group.size - 1)
        gates.close(group.name, torch.randperm(group.size, generator=random)[:closed])
    probe = other_inputs(inputs, 6)
    gated = outputs(net, probe)
    record["input"] = min(differences(gated, outputs(net, other_inputs(inputs, 7))))
    record["opened"] = opened_by_mistake(net, graph, gates, probe, gated)

    # cut, compare, train
    reached("remove")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report, took = timed(lambda: gdp.remove(net, graph, gates))
    record["warnings"] = [str(w.message).splitlines()[0] for w in caught if "fvcore" in str(w.message)]
    error = max(difference(gated, outputs(net, probe)), report.max_rel)
    reached(
        "train", error=error, remove_s=took.wall, flops_predicted=report.flops_predicted, flops_cut=report.flops_after
    )
    loss, untrained = train_step(net, other_inputs(inputs, 8, batch=2))
    reached("done", train_loss=loss, untrained=untrained)
    return record


def outputs(net: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return every output tensor of a network in eval mode.

    Args:
        net: it is left in eval mode.
        inputs: of the network; some networks write into theirs, so it is given a copy.
    """
    with torch.no_grad():
        return [t.clone() for t in output_tensors(net.eval()(*clone_inputs(net, inputs)))]


def differences(expected: list[Tensor], actual: list[Tensor]) -> list[float]:
    """Return the largest difference of every output, relative to its largest entry; infinite for NaN or another shape.

    Args:
        expected: outputs of one network.
        actual: outputs of the other, in the same order.
    """
    found = []
    for a, b in zip(expected, actual, strict=True):
        value = (
            float((a.double() - b.double()).abs().max() / a.double().abs().max()) if a.shape == b.shape else math.inf
        )
        found.append(value if math.isfinite(value) else math.inf)
    return found


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Return the difference of the output that differs most, as `differences` measures it.

    Args:
        expected: outputs of one network.
        actual: outputs of the other, in the same order.
    """
    return max(differences(expected, actual))


def opened_by_mistake(
    net: nn.Module, graph: gdp.ChannelGraph, gates: Gates, probe: Inputs, gated: list[Tensor]
) -> float | None:
    """Return what the comparison would see: by how much outputs change with one closed group left open.

    Args:
        net: gated.
        graph: of the network.
        gates: some of every group are closed; they are left as they were.
        probe: the inputs that networks are compared on.
        gated: outputs of the network for it.

    Returns:
        The largest of a few groups, relative; None if nothing is closed.
    """
    closed = list(gates.closed)
    random = torch.Generator().manual_seed(9)
    found = None
    for i in torch.randperm(len(closed), generator=random)[:GROUPS_OPENED].tolist():
        before = gates.gate_param.clone()
        gates.gate_param[gates.spans[closed[i]]] = 1.0
        gates.set()
        change = difference(gated, outputs(net, probe))
        gates.set(before)
        found = max(found or 0.0, change)
        if found >= 10 * CONTROL:
            break
    return found


def train_step(net: nn.Module, inputs: Inputs) -> tuple[float, int]:
    """Take one step of SGD in train mode.

    Args:
        net: it is left in eval mode.
        inputs: a batch.

    Returns:
        The loss, and how many parameters got no gradient or not a finite one.
    """
    net.train()
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    made = [t for t in output_tensors(net(*inputs)) if t.is_floating_point()]
    loss = torch.stack([t.float().pow(2).mean() for t in made]).sum()
    loss.backward()
    bad = sum(p.grad is None or not bool(p.grad.isfinite().all()) for p in net.parameters() if p.requires_grad)
    optimizer.step()
    optimizer.zero_grad()
    net.eval()
    return float(loss.detach()), bad


def exact(record: Record) -> bool:
    """Return whether the network was cut without an error, and computes the same within the tolerance."""
    return record["step"] == "done" and record["error"] <= TOLERANCE


def controlled(record: Record) -> bool:
    """Return whether the comparison would have seen an error; where nothing can be closed there is nothing to see."""
    seen = max(CONTROL, FAR * record["error"])
    return record["groups"] == 0 or min(record["opened"], record["input"]) >= seen


def counted(record: Record) -> bool:
    """Return whether predicted FLOPs are those that fvcore counts."""
    return "flops_cut" in record and record["flops_predicted"] == record["flops_cut"]
