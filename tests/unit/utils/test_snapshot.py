"""What networks keep in plain attributes is as it was after every pass, and cuts fit what they keep."""

import copy
import warnings
from collections import deque

import pytest
import torch
from helpers.networks.caches import KEEPING, Flag, GridAndShape, Keeps, Record
from rich.console import Console
from torch import nn

import gdp
from gdp.selection import latency_model
from gdp.utils import Snapshot, count_flops, run_and_keep, run_forward

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def contents(value, seen=None):
    """Everything that an object holds, as nested tuples of ids and numbers."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return id(value)
    seen[id(value)] = value
    if isinstance(value, torch.Tensor):
        return id(value), value.data_ptr(), value.dtype, value.tolist(), contents(vars(value), seen)
    if isinstance(value, dict):
        return id(value), [(k, contents(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple | deque):
        return id(value), [contents(v, seen) for v in value]
    if isinstance(value, set):
        return id(value), sorted(value)
    if hasattr(value, "__dict__") and type(value).__module__.startswith(("torch.nn", "helpers", "types")):
        return id(value), contents(vars(value), seen)
    return value if isinstance(value, int | float | str) else id(value)


PASSES = {
    "trace": lambda net: gdp.trace(net, X),
    "check": lambda net: gdp.check(net, X),
    "count": lambda net: count_flops(net, X),
    "run": lambda net: run_forward(net, (X,)),
    "train": lambda net: run_forward(net, (X,), training=True),
    "latency": lambda net: latency_model(net, gdp.trace(net, X)),
}


@pytest.mark.parametrize("what", PASSES)
@pytest.mark.parametrize("make", KEEPING)
def test_a_pass_leaves_no_trace(make, what):
    net = make().eval()
    before = contents(net)
    PASSES[what](net)
    assert contents(net) == before
    assert net(X).device.type == "cpu" and not torch._subclasses.fake_tensor.is_fake(net(X))


@pytest.mark.parametrize("make", KEEPING)
def test_nor_does_a_failing_one(make):
    def fail(*_):
        raise RuntimeError("half way")

    net = make()
    net.b.register_forward_pre_hook(fail)
    before = contents(net)
    for run in PASSES.values():
        with pytest.raises((gdp.GDPError, RuntimeError), match="half way"):
            run(net)
    assert contents(net) == before


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("make", [m for m in KEEPING if m.__name__ not in ("AttentionBias", "WeightsWritten")])
def test_what_is_kept_does_not_keep_channels_from_being_cut(make, warm):
    torch.manual_seed(0)
    net = make().eval()
    if warm:
        with torch.no_grad():
            net(X)
    graph = gdp.trace(net, X)
    assert gdp.check(net, X).groups == (("a", 1, 8),)
    gates = gdp.insert_gates(net, graph)
    gates.close("a", [1, 2])
    own = {k: v for k, v in vars(net).items() if not k.startswith("_")}
    before = contents(own)
    gdp.remove(net, graph, gates)
    assert contents(own) == before and not vars(net).keys() - own.keys() - vars(nn.Module()).keys()
    assert net.a.weight.shape[0] == 6 and net(X).shape == (2, 4, 4, 4)


class KeepsDenseSize(Keeps):
    """What it has kept of the whole network does not fit the cut one."""

    channels = None

    def keep(self, y):
        if self.channels is None:
            self.channels = y.shape[1]
        return y.view(len(y), self.channels, -1).view(y.shape)


class KeepsDenseNumber(Keeps):
    """What it has kept of the whole network fits the cut one, which would keep another number if it were loaded."""

    scale = None

    def keep(self, y):
        if self.scale is None:
            self.scale = y.shape[1] ** -0.5
        return y * self.scale


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("make", [KeepsDenseSize, KeepsDenseNumber])
def test_what_would_fail_after_training_or_after_loading_is_frozen_before(make, warm):
    net = make().eval()
    if warm and make is KeepsDenseSize:
        net(X)
    report = gdp.check(net, X)
    assert report.groups == () and any("forward can't follow a cut" in f.reason for f in report.frozen)


def test_the_advice_to_register_buffers_does_not_reach_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        gdp.trace(GridAndShape(), X)
        gdp.trace(Flag(), X)


def test_a_snapshot_says_whether_anything_has_changed():
    net = Record()
    before = Snapshot(net)
    assert not before.changed()
    net.sizes.add(3)
    assert before.changed()
    before.restore()
    assert not before.changed() and not net.sizes
    assert run_and_keep(net, (X,)) and net.calls == 1
    assert not run_and_keep(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), (X,))


def test_numbers_that_are_nan_are_put_back_as_well():
    net = Record()
    net.hidden = deque([torch.tensor([float("nan"), 1.0])], maxlen=1)
    before = Snapshot(net)
    assert not before.changed()
    net.hidden[0][1] = 2.0
    net.hidden.append(torch.zeros(1))
    before.restore()
    assert net.hidden[0].isnan().tolist() == [True, False] and net.hidden[0][1] == 1.0


@pytest.mark.parametrize("call", [gdp.trace, gdp.check, count_flops])
def test_a_lazy_layer_that_has_seen_no_input_is_named(call):
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    with pytest.raises(gdp.GDPError, match=r"0\.weight of Sequential has no shape yet.*Run the network once"):
        call(net, X)
    net(X)
    assert call(net, X)


def test_a_deep_copy_and_the_original_share_nothing_afterwards():
    net = Record()
    other = copy.deepcopy(net)
    gdp.check(net, X)
    assert other.features == [] and other.features is not net.features


def test_objects_of_other_packages_go_their_own_way():
    net = nn.Linear(2, 2)
    net.console = Console()
    snapshot = Snapshot(net)
    net.console.mark, net.mark = 1, 1
    snapshot.restore()
    assert net.console.mark == 1 and not hasattr(net, "mark")
