"""The dry run before training: what it finds, what it says, what it costs, and that it leaves no trace."""

import copy
import random
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import AuxiliaryHead, Blocks, Concat, Literal, Residual, conv, randomize
from torch import nn

import gdp
from gdp.surgery import freeze_uncuttable_groups
from gdp.utils import count_flops

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_dry_run_finds_the_literal_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    net = randomize(Literal()).train()
    graph = gdp.trace(net, X, dry_run=False)
    assert [g.name for g in graph.groups] == ["a.0", "b.0", "c.0"]
    state, rng, classes = copy.deepcopy(net.state_dict()), torch.get_rng_state(), [type(m) for m in net.modules()]
    checked = freeze_uncuttable_groups(net, graph)
    assert [g.name for g in checked.groups] == ["a.0", "c.0"]
    assert checked.frozen[-1].name == "b.0" and "invalid for input of size" in checked.frozen[-1].reason
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert (
        [type(m) for m in net.modules()] == classes
        and torch.equal(torch.get_rng_state(), rng)
        and net.b[0].out_channels == 6
    )


def test_the_dry_run_sees_a_cut_that_runs_but_is_not_exact():
    class DividesByWidth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.c(torch.relu(self.b(x / x.shape[1])))

    net = DividesByWidth()
    checked = gdp.trace(net, X)
    assert [g.name for g in checked.groups] == ["b"]
    assert "differs from the gated one" in checked.frozen[-1].reason


def test_the_dry_run_keeps_what_works():
    net = randomize(Residual())
    graph = gdp.trace(net, X, dry_run=False)
    checked = freeze_uncuttable_groups(net, graph)
    assert checked.groups == graph.groups and checked.flops.dense == graph.flops.dense == count_flops(net, X)


class Split(nn.Module):
    """Four streams; the literal size of one split is right for the dense network only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.b(self.a(x))
        x = torch.cat(x.split(2, 1)[::-1], 1)  # runs with any even number of channels, in another order
        return self.head(self.c(x))


class Wired(nn.Module):
    """A functional conv whose number of groups is written into `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = conv(3, 8), nn.Conv2d(8, 4, 1)
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))

    def forward(self, x):
        return self.head(F.conv2d(self.a(x), self.weight, groups=8))


@pytest.mark.parametrize(
    "build, group, line",
    [
        (Literal, "b.0", r"raised at forms\.py:\d+: x = x\.view\(x\.shape\[0\], 6, -1\)\.view\("),
        (Split, "b.0", r"a size may be written at test_check\.py:\d+: x = torch\.cat\(x\.split\(2, 1\)"),
        (Wired, "a.0", r"raised at test_check\.py:\d+: return self\.head\(F\.conv2d\(.*groups=8"),
    ],
)
def test_the_line_of_the_literal_is_named(build, group, line):
    graph = gdp.trace(randomize(build()), X)
    assert group not in [g.name for g in graph.groups] and len(graph.groups) >= (build is not Wired)
    reason = next(f.reason for f in graph.frozen if f.name == group and "can't follow" in f.reason)
    assert re.search(line, reason), reason


@pytest.mark.parametrize("build", [Residual, Concat, AuxiliaryHead])
def test_it_costs_seven_forward_passes_where_nothing_fails(build):
    net, passes = randomize(build()), []
    graph = gdp.trace(net, X, dry_run=False)
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    freeze_uncuttable_groups(net, graph)
    assert len(passes) <= 7 and len(net._forward_pre_hooks) == 1


def everything(net: nn.Module) -> list[object]:
    """What must be as it was: tensors by identity and value, modes, hooks, classes, attributes, random generators."""
    tensors = [(n, id(t), t.data_ptr(), t.clone()) for n, t in (*net.named_parameters(), *net.named_buffers())]
    modules = [(n, m.training, type(m), sorted(m.__dict__), len(m._forward_hooks)) for n, m in net.named_modules()]
    return [*tensors, *modules, torch.get_rng_state(), random.getstate()]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list | tuple) else a == b


class Random(Literal):
    """Dropout, both random generators, a literal, and an error once it is cut."""

    def forward(self, x):
        x = F.dropout(x * (1 + 0.01 * random.random()), 0.1, self.training)
        if self.a[0].out_channels < 8:
            raise ValueError("not with me")
        return super().forward(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", [Residual, Literal, Random])
@pytest.mark.parametrize("blocks", [False, True])
def test_the_network_is_left_as_it_was_also_when_it_raises(build, training, blocks):
    net = randomize(build()).train(training)
    net.a.register_forward_hook(lambda *_: None)
    net.a[1].eval()  # a frozen batch norm
    before = everything(net)
    report = gdp.check(net, X, blocks=blocks)
    assert same(before, everything(net))
    assert report.dry_run and report.flops_before == count_flops(net, X)
    if build is Random:
        assert any("not with me, raised at test_check.py" in f.reason for f in report.frozen)


def test_an_error_of_the_trace_leaves_no_trace():
    class Depends(Residual):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    net = randomize(Depends()).train()
    before = everything(net)
    with pytest.raises(
        gdp.GDPError, match=r"can't follow Depends\.forward .* at test_check\.py:\d+: return super"
    ) as info:
        gdp.check(net, X)
    assert "GDPCallback(module=...)" in str(info.value) and len(str(info.value)) < 900
    assert same(before, everything(net))


def test_a_report_of_the_smallest_network_and_of_what_stays():
    report = gdp.check(net := randomize(Literal()), X)
    assert report.groups == (("a.0", 1, 8), ("c.0", 1, 9)) and report.dry_run and report.blocks == ()
    assert report.flops_before == count_flops(net, X) > report.flops_after == report.flops_predicted
    assert "the smallest network (dry run; nothing was changed)" in str(report) and "b.0" in str(report)
    with pytest.raises(gdp.GDPError, match="The lowest target for this network is"):
        gdp.Pruner(net, gdp.trace(net, X), report.remaining - 1e-3)
    gdp.Pruner(net, gdp.trace(net, X), report.remaining)


@pytest.mark.parametrize("build", [Literal, Split, Wired])
def test_a_plain_loop_prunes_what_forward_can_follow(build):
    net = randomize(build())
    graph, untried = gdp.trace(net, X), gdp.trace(net, X, dry_run=False)
    assert {g.name for g in graph.groups} < {g.name for g in untried.groups}
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, range(1, group.size, 2))
    assert gdp.remove(net, graph, gates).max_rel < 1e-5


def test_a_branch_that_forward_looks_into_is_found_by_trace():
    class Looks(Blocks):
        def forward(self, x):
            assert self.a.conv1.in_channels <= 8  # the constant in its place has no such field
            return super().forward(x)

    net = randomize(Looks())
    assert [b.name for b in gdp.trace(net, X, blocks=True, dry_run=False).blocks] == ["a", "b", "c"]
    assert [b.name for b in gdp.trace(net, X, blocks=True).blocks] == ["b", "c"]


def test_nothing_to_prune_is_a_report_too():
    report = gdp.check(nn.Conv2d(3, 4, 1), X)
    assert report.groups == () and report.remaining == 1.0 and report.frozen[0].reason == "reaches the network's output"


def test_a_wrong_cut_would_be_seen():
    """The negative control of preflight itself: with one channel of a group's index vectors swapped, it fails."""
    net = randomize(Residual())
    graph = gdp.trace(net, X, dry_run=False)
    axis = graph["a.0"].tensors[0]
    wrong = replace(axis, index=axis.index.flip(0))
    group = replace(graph["a.0"], tensors=(wrong, *graph["a.0"].tensors[1:]))
    bad = replace(graph, groups=tuple(group if g.name == "a.0" else g for g in graph.groups))
    assert [f.name for f in freeze_uncuttable_groups(net, bad).frozen if "differs from the gated" in f.reason] == [
        "a.0"
    ]
    assert len(freeze_uncuttable_groups(net, graph).frozen) == len(graph.frozen)
