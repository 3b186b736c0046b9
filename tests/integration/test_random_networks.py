"""Random networks, cut at random: exact, counted right, and shown to depend on what is compared.

`make fuzz N=...` draws new ones; as a plain test it is the same networks every time.
"""

import copy
import os
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from helpers.random_networks import Spec, build, everything, specs
from helpers.random_pieces import PIECES
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import gdp
from gdp.gates import Gates
from gdp.surgery import freeze_uncuttable_groups

pytestmark = pytest.mark.slow


FUZZ = "RANDOM_NETS" in os.environ
OUTPUT = "reaches the network's output"
EXACT, FAR = 1e-11, 1e-7  # relative, in float64: the same; certainly not the same


def outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = tree_leaves(net(x))
    assert all(t.isfinite().all() for t in found)  # a NaN differs from nothing
    return found


def relative(a: list[Tensor], b: list[Tensor]) -> float:
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(a, b, strict=True))


def snapshot(net: nn.Module) -> dict[str, object]:
    modules = {name: (type(m), m.training, set(m.__dict__)) for name, m in net.named_modules()}
    return {**modules, **copy.deepcopy(net.state_dict()), "rng": torch.get_rng_state()}


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, Tensor) else v == b[k] for k, v in a.items()
    )


@dataclass
class Tally:
    """What the networks of a run had in them: a run in which nothing could go wrong shows nothing."""

    nets: int = 0
    groups: int = 0
    channels: int = 0
    closed: int = 0
    worst: float = 0.0
    shown: int = 0  # groups that were seen to matter, of
    asked: int = 0
    blind: int = 0  # networks in which nothing was seen to matter
    late: int = 0  # networks in which only the dry run found a group that must stay
    partly_frozen: int = 0  # networks with channels that must stay beside those of the outputs
    failures: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.nets} networks, {self.groups} groups, {self.closed / self.channels:.0%} of {self.channels} "
            f"channels closed, {self.shown / self.asked:.1%} of the controls differ, {self.partly_frozen} networks "
            f"with parts that must stay, {self.late} of them found by the dry run only, {self.blind} networks that "
            f"show nothing, worst relative difference {self.worst:.1e}\n{dict(self.kinds.most_common())}"
        )


# reasons to leave channels alone beside reaching an output, and the pieces without which there is no such reason
STAYS = {"group_norm", "mask"}
REASONS = {
    "mixes channels": {"group_norm"},
    "one channel is broadcast over many": {"mask"},
    "channels that must stay": STAYS,
    "is also used on channels that must stay": STAYS,
    "its channels are one unit": {
        "group_norm",
        "grouped",
        "transposed",
        "shuffle",
        "pixel_shuffle",
        "pixel_unshuffle",
        "parts",
    },
}


def check(spec: Spec, tally: Tally) -> None:
    net, x = build(spec)
    random = torch.Generator().manual_seed(spec.seed)
    other = torch.randn(3, *x.shape[1:], dtype=x.dtype, generator=random)
    kinds = {p.kind for p in everything(spec.pieces)}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    train(net, x, optimizer)

    before, dense = snapshot(net), outputs(net, x)
    traced = gdp.trace(net, x, dry_run=False)
    graph = freeze_uncuttable_groups(net, traced)
    assert same(before, snapshot(net)), "trace or preflight leave something behind"
    late = [f for f in graph.frozen if f not in traced.frozen]
    # a shuffle has the number of its groups written into it, and single channels that are copied may be its rows
    literal = ("is invalid for input of size", "differs from the gated one")  # the number of groups of a shuffle
    assert all(any(text in f.reason for text in literal) for f in late) and (not late or "shuffle" in kinds), late
    if spec.stem:  # otherwise images meet channels, and almost anything may have to stay
        for f in traced.frozen:
            known = any(text in f.reason and pieces & kinds for text, pieces in REASONS.items())
            assert known or f.reason == OUTPUT, graph.reasons()

    gates = gdp.insert_gates(net, graph)
    assert all(torch.equal(a, b) for a, b in zip(dense, outputs(net, x), strict=True)), "gates at rest change something"
    gates.set()
    assert relative(dense, outputs(net, x)) <= EXACT, "open gates change something"
    gates.gate_param.uniform_(0.5, 1.0, generator=random)
    for group in graph.groups:
        gone = int(torch.randint(group.size, (1,), generator=random))
        gates.close(group.name, torch.randperm(group.size, generator=random)[:gone])
    gates.set()
    gated, moved = outputs(net, x), outputs(net, other)

    # controls: a group left open by mistake would be seen, and so would an output that depends on nothing
    shown = [differs_when_open(net, gates, name, x, gated) for name in gates.closed]
    shown.append(relative([t[:1] for t in gated], [t[1:2] for t in gated]) > FAR)
    tally.blind += not any(shown)

    report = gdp.remove(net, graph, gates, [optimizer])
    worst = max(relative(gated, outputs(net, x)), relative(moved, outputs(net, other)))
    assert worst <= EXACT, f"differs by {worst:.1e}"
    assert graph.flops.dense == report.flops_before
    assert report.flops_after == report.flops_predicted
    assert (report.params_after < report.params_before) == bool(gates.closed)
    train(net, x, optimizer)

    tally.nets += 1
    tally.groups += len(graph.groups)
    tally.channels += sum(g.size for g in graph.groups)
    tally.closed += sum(map(len, gates.closed.values()))
    tally.worst = max(tally.worst, worst)
    tally.shown += sum(shown)
    tally.asked += len(shown)
    tally.late += bool(late)
    tally.partly_frozen += any(f.reason != OUTPUT for f in graph.frozen)
    tally.kinds.update(kinds)


def train(net: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step; every parameter gets a gradient."""
    optimizer.zero_grad()
    sum(t.square().mean() for t in tree_leaves(net.train()(x))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()
    net.eval()


def differs_when_open(net: nn.Module, gates: Gates, name: str, x: Tensor, gated: list[Tensor]) -> bool:
    """Whether the outputs show it when the closed channels of one group are open."""
    raw = gates[name].gate_param
    was = raw.clone()
    raw[was == 0] = 1.0
    gates.set()
    different = relative(gated, outputs(net, x)) > FAR
    raw.copy_(was)
    gates.set()
    return different


@pytest.mark.filterwarnings("error:.*gdp:UserWarning")
def test_random_networks_are_cut_exactly():
    tally = Tally()

    @settings(
        max_examples=int(os.environ.get("RANDOM_NETS", "120")),
        derandomize=not FUZZ,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(specs())
    def run(spec: Spec) -> None:
        try:
            check(spec, tally)
        except Exception as error:
            if not FUZZ:
                raise
            tally.failures.append(f"{type(error).__name__}: {str(error)[:500]}\n  {spec}")  # and on to the next one

    run()
    print(f"\n{tally}", *tally.failures, sep="\n")
    assert not tally.failures
    if tally.nets >= 200:  # enough of them for averages
        assert tally.groups > 2 * tally.nets and tally.closed > 0.3 * tally.channels
        assert tally.shown > 0.97 * tally.asked and tally.blind < 0.005 * tally.nets
        assert tally.late < 0.05 * tally.nets and set(tally.kinds) == set(PIECES)
