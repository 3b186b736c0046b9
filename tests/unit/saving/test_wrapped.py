"""Networks in wrappers: graph, plan, report and file are those of the plain network, and fit any other form of it."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.networks import Chain, Residual
from helpers.pruned import X
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import gdp
from gdp.utils import named_tensors, plain_state_dict, state_dict_for, unwrap


class OwnModule(nn.Module):
    """A network with a part that is called `module`, as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Chain()

    def forward(self, x):
        return self.module(x)


class TwoNames(nn.Module):
    """A part under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.net = nn.Sequential(self.first, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.last = nn.Conv2d(8, 4, 1)
        self.again = self.net[2]

    def forward(self, x):
        return self.last(self.net(x))


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def with_a_parallel_part(net: nn.Module) -> nn.Module:
    name = next(iter(dict(net.named_children())))
    setattr(net, name, DataParallel(getattr(net, name)))
    return net


FORMS = {
    "plain": lambda net: net,
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "DataParallel": DataParallel,
    "compiled DataParallel": lambda net: compiled(DataParallel(net)),
    "DataParallel of a compiled one": lambda net: DataParallel(compiled(net)),
    "a part in DataParallel": with_a_parallel_part,
}
NETWORKS = [Chain, Residual, OwnModule, TwoNames]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def pruned(net: nn.Module) -> gdp.Report:
    """Prune a network in whatever form it is."""
    net.eval()
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, [0, group.size - 1])
    return gdp.remove(net, graph, gates)


def content(path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_saved_as_the_plain_network_is(form, make, tmp_path):
    plain = make()
    wrapped = form(copy.deepcopy(plain))
    reports = [pruned(net) for net in (plain, wrapped)]
    assert reports[0].flops_after == reports[1].flops_after == reports[1].flops_predicted
    assert [r.groups for r in reports[:1]] == [r.groups for r in reports[1:]]
    for name, net in (("plain", plain), ("wrapped", wrapped), ("inside", unwrap(wrapped)), ("outside", form(plain))):
        gdp.save_pruned(net, tmp_path / f"{name}.pt")
    one = content(tmp_path / "plain.pt")
    for name in ("wrapped", "inside", "outside"):
        other = content(tmp_path / f"{name}.pt")
        assert other["plan"] == one["plan"] and other["state_dict"].keys() == one["state_dict"].keys()
        assert all(torch.equal(value, one["state_dict"][key]) for key, value in other["state_dict"].items())
    with torch.no_grad():
        expected = unwrap(wrapped)(X)
        for other in FORMS.values():
            loaded = gdp.load_pruned(other(make()), tmp_path / "wrapped.pt").eval()
            torch.testing.assert_close(loaded(X), expected)
            assert gdp.report.report_of(unwrap(loaded)).groups == reports[0].groups


@pytest.mark.parametrize("outer", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("inner", FORMS.values(), ids=FORMS)
def test_a_state_dict_of_one_form_fits_every_other(inner, outer):
    one, other = inner(OwnModule()), outer(OwnModule())
    other.load_state_dict(state_dict_for(other, one.state_dict()))
    assert plain_state_dict(other, one.state_dict()).keys() == OwnModule().state_dict().keys()
    assert all(torch.equal(t, named_tensors(other)[name]) for name, t in named_tensors(one).items())


def test_distributed_data_parallel_is_a_wrapper(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(Chain())
        pruned(wrapped)
        gdp.save_pruned(wrapped, tmp_path / "small.pt")
        expected = wrapped(X)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(gdp.load_pruned(Chain(), tmp_path / "small.pt").eval()(X), expected)


def test_copies_of_layers_on_several_devices_are_refused_before_anything_is_changed():
    net = DataParallel(Chain())
    graph = gdp.trace(net, X)
    net.device_ids = [0, 1]
    for model in (net, nn.Sequential(net)):
        with pytest.raises(gdp.GDPError, match=r"DataParallel on 2 devices.*DistributedDataParallel"):
            gdp.insert_gates(model, graph)
    assert not any("gdp" in name for name in net.state_dict())
