import copy
import os
import re

import pytest
import torch
from helpers.damage import damaged
from helpers.features import works
from helpers.networks import Chain, Depthwise, Residual
from helpers.pruned import X, pruned
from torch import nn

import gdp


class Holder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.scale = net, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.net(x) * self.scale


class WithTable(nn.Module):
    """A buffer that is cut but not saved: it is rebuilt by the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.register_buffer("table", torch.arange(6.0).view(6, 1, 1), persistent=False)

    def forward(self, x):
        return self.b(torch.relu(self.a(x) + self.table))


@pytest.mark.parametrize("make", [Chain, Residual, Depthwise, WithTable])
def test_load_rebuilds_the_network_from_its_own_constructor(make, tmp_path):
    net = pruned(make())
    gdp.save_pruned(net, tmp_path / "small.pt")
    again = gdp.load_pruned(make(), tmp_path / "small.pt").eval()
    assert type(again) is make
    with torch.no_grad():
        assert torch.equal(again(X), net(X))
    assert [p.shape for p in again.parameters()] == [p.shape for p in net.parameters()]
    gdp.save_pruned(again, tmp_path / "twice.pt")
    twice = gdp.load_pruned(make(), tmp_path / "twice.pt").eval()
    assert torch.equal(twice(X), net(X))


def test_the_file_holds_plain_data_only(tmp_path):
    gdp.save_pruned(pruned(Chain()), tmp_path / "small.pt")
    content = torch.load(tmp_path / "small.pt", weights_only=True)
    assert set(content) == {"gdp", "plan", "state_dict", "report"}
    assert content["plan"]["keep"]["0.0.weight"] == {0: [0, 2, 4, 6]}
    assert content["report"]["groups"] == [["0.0", 4, 8], ["1.0", 6, 12]]


def test_a_module_around_the_network_can_be_saved_too(tmp_path):
    net = pruned(Residual())
    holder = Holder(net).eval()
    gdp.save_pruned(holder, tmp_path / "small.pt")
    again = gdp.load_pruned(Holder(Residual()), tmp_path / "small.pt").eval()
    assert torch.equal(again(X), holder(X))


def test_a_compiled_network_can_be_saved_too(tmp_path):
    net = torch.compile(Chain())
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    gates.close(graph.groups[0].name, [1])
    gdp.remove(net, graph, gates)
    gdp.save_pruned(net, tmp_path / "small.pt")
    again = gdp.load_pruned(Chain(), tmp_path / "small.pt")
    assert [p.shape for p in again.parameters()] == [p.shape for p in net.parameters()]


def test_a_copy_needs_its_report(tmp_path):
    net = pruned(Chain())
    report = gdp.report.report_of(net)
    clone = copy.deepcopy(net)
    with pytest.raises(gdp.GDPError, match=r"found 0\. .*save_pruned\(model, path, report\)"):
        gdp.save_pruned(clone, tmp_path / "small.pt")
    gdp.save_pruned(clone, tmp_path / "small.pt", report)
    assert torch.equal(gdp.load_pruned(Chain(), tmp_path / "small.pt").eval()(X), net(X))


@works("Bad input", "a pruned file of another network", "`GDPError`; the network is left as it was")
def test_other_architectures_are_refused_and_left_as_they_were(tmp_path):
    gdp.save_pruned(pruned(Chain()), tmp_path / "small.pt")
    other = Residual()
    shapes = {k: v.shape for k, v in other.state_dict().items()}
    with pytest.raises(gdp.GDPError, match=r"belongs to another network: it expects 0.0.weight"):
        gdp.load_pruned(other, tmp_path / "small.pt")
    assert {k: v.shape for k, v in other.state_dict().items()} == shapes
    wider = Chain()
    wider[2] = nn.Conv2d(12, 6, 1)
    with pytest.raises(gdp.GDPError, match=r"2.weight of shape \(5, 12, 1, 1\), but found \(6, 12, 1, 1\)"):
        gdp.load_pruned(wider, tmp_path / "small.pt")
    more = Chain()
    more.append(nn.BatchNorm2d(5))
    with pytest.raises(gdp.GDPError, match=r"3.bias should be .*no such tensor"):
        gdp.load_pruned(more, tmp_path / "small.pt")
    assert more[0][0].out_channels == 8


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "small.pt"
    gdp.save_pruned(pruned(Chain()), path)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(
            gdp.GDPError, match=r"small\.pt' can't be read as a pruned network of .*; it is truncated, damaged"
        ):
            gdp.load_pruned(Chain(), path)
    torch.save(Chain().state_dict(), path)
    with pytest.raises(gdp.GDPError, match="holds something else"):
        gdp.load_pruned(Chain(), path)
    torch.save({"gdp": 99}, path)
    with pytest.raises(gdp.GDPError, match="holds format 99"):
        gdp.load_pruned(Chain(), path)
    torch.save(Chain(), path)
    with pytest.raises(gdp.GDPError, match="can't be read"):
        gdp.load_pruned(Chain(), path)
    with pytest.raises(gdp.GDPError, match="no file"):
        gdp.load_pruned(Chain(), tmp_path / "none.pt")


KEEPS = [
    *({"0.0.weight": k} for k in ({0: [0, 0, 1]}, {0: [-1]}, {0: [8]}, {7: [0]}, {0: []})),
    {"nope": {0: [0]}},
    None,
]


@works("Bad input", "a plan with indices that are negative, out of range, repeated or not there", "`GDPError`")
@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_a_plan_with_wrong_indices_is_refused(keep, tmp_path):
    gdp.save_pruned(pruned(Chain()), tmp_path / "small.pt")
    content = torch.load(tmp_path / "small.pt", weights_only=True)
    content["plan"]["keep"] = keep
    torch.save(content, tmp_path / "small.pt")
    with pytest.raises(gdp.GDPError, match="plan"):
        gdp.load_pruned(Chain(), tmp_path / "small.pt")


@works("Bad input", "a hostile pruned file", "only `weights_only=True` is ever used, and no code of a file runs")
def test_a_hostile_file_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"gdp": 1, "plan": Hostile()}, tmp_path / "small.pt")
    with pytest.raises(gdp.GDPError, match="can't be read"):
        gdp.load_pruned(Chain(), tmp_path / "small.pt")
    assert not (tmp_path / "ran").exists()


def test_a_crash_while_saving_leaves_the_old_file_whole(tmp_path):
    class Unsavable(nn.Module):
        def __getstate__(self):
            raise OSError("disk full")

    path = tmp_path / "small.pt"
    net = pruned(Chain())
    gdp.save_pruned(net, path)
    whole = path.read_bytes()
    net.register_state_dict_post_hook(lambda module, state, *_: state.update(bad=Unsavable()))
    with pytest.raises(gdp.GDPError, match=r"small\.pt' could not be written \(OSError: disk full\).*untouched"):
        gdp.save_pruned(net, path)
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ["small.pt"]


@works("Bad input", "a pruned file with flipped bits, or truncated", "`GDPError`, or the bit did not matter")
def test_a_pruned_file_is_loaded_as_it_was_written_or_not_at_all(tmp_path):
    path, net = tmp_path / "small.pt", pruned(Chain())
    gdp.save_pruned(net, path)
    whole, refusals, count = path.read_bytes(), 0, 0
    for content in damaged(whole, 61):
        path.write_bytes(content)
        fresh, count = Chain(), count + 1
        before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
        try:
            loaded = gdp.load_pruned(fresh, path).state_dict()
        except gdp.GDPError:
            refusals += 1
            assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
        else:
            assert all(torch.equal(tensor, loaded[name]) for name, tensor in net.state_dict().items())
    assert count > 300 and refusals > 0.6 * count


def test_a_record_marked_as_a_folder_is_refused(tmp_path):
    """torch reads nothing of a folder, and says nothing: a tensor would hold whatever was in memory."""
    path = tmp_path / "small.pt"
    gdp.save_pruned(pruned(Chain()), path)
    whole = path.read_bytes()
    entries = [match.start() for match in re.finditer(rb"PK\x01\x02", whole)]
    assert len(entries) > 10
    for entry in entries:
        path.write_bytes(whole[: entry + 38] + bytes([whole[entry + 38] ^ 0x10]) + whole[entry + 39 :])
        with pytest.raises(gdp.GDPError, match="is marked as a folder"):
            gdp.load_pruned(Chain(), path)
