"""Whole residual blocks: what goes, and that the constant they leave is exactly what they added."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from helpers.networks import Blocks, conv, randomize
from torch import nn
from torchvision.models import convnext_tiny, mobilenet_v3_small, regnet_y_400mf, resnet50

import gdp
from gdp.graph import CutPlan
from gdp.surgery import cut
from gdp.tracing import trace_channels
from gdp.utils import count_flops

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def prune(net: nn.Module, gone: list[str], x: torch.Tensor = X, share: float = 0.4) -> gdp.Report:
    """Close the blocks of these names and a random share of everything else."""
    graph = trace_channels(net, x, blocks=True)
    gates = gdp.insert_gates(net, graph)
    generator = torch.Generator().manual_seed(1)
    for group in graph.groups:
        gates.close(group.name, torch.randperm(group.size, generator=generator)[: int(share * group.size)])
    for block in graph.blocks:
        if block.name in gone:
            for name in block.reads:
                gates.close(name, range(graph[name].size))
    return gdp.remove(net, graph, gates)


@pytest.mark.parametrize("gone", [["a"], ["b"], ["c"], ["a", "c"], ["a", "b", "c"]])
def test_a_block_goes_and_its_constant_stays(gone):
    net = randomize(Blocks()).eval()
    graph = trace_channels(net, X, blocks=True)
    assert [(b.name, b.last_layer, b.norm) for b in graph.blocks] == [
        ("a", "a.conv2", "a.bn2"), ("b", "b.conv2", "b.bn2"), ("c", "c.conv3", "c.bn3"),
    ]  # fmt: skip
    report = prune(net, gone)
    assert report.blocks == tuple(gone) and report.max_rel < 1e-5
    assert report.flops_after == report.flops_predicted == count_flops(net, X)
    assert f"blocks gone as a whole: {', '.join(gone)}" in str(report)
    net.train()(X).sum().backward()
    last = {"a": "conv2", "b": "conv2", "c": "conv3"}
    before = net.eval()(X)
    assert (net(-X) - before).abs().max() > 1e-3 * before.abs().max()  # the input matters
    for name in gone:  # and so does the constant of every block: 1 % off would be seen
        constant = net.get_submodule(f"{name}.{last[name]}").bias
        constant.data *= 1.01
        assert (net(X) - before).abs().max() > 1e-4 * before.abs().max()
        constant.data /= 1.01


@pytest.mark.slow
@pytest.mark.parametrize("build", [resnet50, mobilenet_v3_small, regnet_y_400mf, convnext_tiny])
def test_blocks_of_torchvision_go(build):
    torch.manual_seed(0)
    net, x = randomize(build(weights=None)), torch.randn(1, 3, 64, 64)
    for module in net.modules():
        if hasattr(module, "layer_scale"):
            module.layer_scale.data.uniform_(0.2, 0.4)
    names = [b.name for b in trace_channels(net, x, blocks=True).blocks]
    report = prune(net, names[1::2], x, share=0.2)
    assert len(names) >= 6 and report.blocks == tuple(names[1::2])
    assert report.max_rel < 1e-5 and report.flops_after == report.flops_predicted
    net.train()(torch.cat([x, x])).sum().backward()


def test_the_smallest_network_is_tried_without_its_blocks():
    net = randomize(Blocks())
    state = copy.deepcopy(net.state_dict())
    plain, report = gdp.check(net, X), gdp.check(net, X, blocks=True)
    assert report.blocks == ("a", "b", "c") and plain.blocks == () and report.remaining < plain.remaining
    assert report.flops_after == report.flops_predicted
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and len(state) == len(net.state_dict())


def test_a_block_that_forward_looks_into_stays_with_the_reason():
    class Looks(Blocks):
        def forward(self, x):
            assert self.a.conv1.in_channels <= 8  # the constant in its place has no such field
            return super().forward(x)

    report = gdp.check(randomize(Looks()), X, blocks=True)
    assert report.blocks == ("b", "c")
    assert any(f.name == "a" and "can't go as a whole" in f.reason and "in_channels" in f.reason for f in report.frozen)


def test_without_a_way_around_nothing_goes():
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(conv(3, 8), nn.Conv2d(8, 6, 1)) for _ in range(2))
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            return self.head(torch.relu(self.a(x) + self.b(x)))

    graph = trace_channels(Parallel(), X, blocks=True)
    assert len(graph.blocks) == 1  # either of the two, never both
    gates = gdp.insert_gates(net := Parallel(), trace_channels(net, X))
    with pytest.raises(gdp.GDPError, match=r"Closing all 8 channels of 'a\.0\.0' would cut the network in two"):
        gates.close("a.0.0", range(8))


class SharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.a, self.b, self.c, self.d = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.bn(self.b(torch.relu(self.a(x))))
        x = x + self.bn(self.d(torch.relu(self.c(x))))
        return self.head(x)


class Table(nn.Module):
    """Around the stem leads nothing but a constant: without the stem the output would not depend on the input."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.table, self.mode = nn.Parameter(torch.randn(1, 8, 32, 32)), mode

    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        other = {"table": self.table, "itself": y, "constant": torch.linspace(0, 1, 32)}[self.mode]
        return self.head(torch.relu(y + other))


def test_a_norm_that_two_branches_share_keeps_them():
    net = randomize(SharedNorm())
    state = copy.deepcopy(net.state_dict())
    assert gdp.check(net, X, blocks=True).blocks == ()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and isinstance(net.bn, nn.BatchNorm2d)


@pytest.mark.parametrize("mode", ["table", "itself", "constant"])
def test_a_stem_is_no_block(mode):
    assert trace_channels(Table(mode), X, blocks=True).blocks == ()


def test_operators_of_the_network_itself_count_beside_blocks_without_norm():
    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
            self.a, self.b = (nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1)) for _ in range(2))

        def forward(self, x):
            x = self.stem(x)
            x = x + self.a(x)
            x = x + self.b(x)
            return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    report = gdp.check(Pools(), X, blocks=True)
    assert report.blocks == ("a", "b") and report.flops_after == report.flops_predicted


def test_a_cut_that_fails_halfway_is_undone():
    net = randomize(Blocks())
    graph, state = trace_channels(net, X, blocks=True), copy.deepcopy(net.state_dict())
    block = graph.blocks[0]
    broken = replace(graph, blocks=(block, replace(graph.blocks[1], inner_layers=("no.such.layer",))))
    closed = {name: list(range(graph[name].size)) for b in broken.blocks for name in b.reads}
    with pytest.raises(AttributeError):
        cut(net, CutPlan.of(broken, closed | {"stem.0": [1]}))
    assert state.keys() == net.state_dict().keys() and net.stem[0].out_channels == 8
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())


def test_a_network_without_blocks_is_saved_and_loaded_and_cut_again(tmp_path):
    net = randomize(Blocks())
    prune(net, ["b"])
    report = prune(net, ["a"])
    assert report.max_rel < 1e-5 and [b.name for b in report.plan.blocks] == ["b", "a"]
    gdp.save_pruned(net, tmp_path / "small.pt")
    loaded = gdp.load_pruned(Blocks(), tmp_path / "small.pt").eval()
    assert torch.equal(loaded(X), net.eval()(X))
    assert isinstance(loaded.a.bn2, nn.Identity) and loaded.a.conv2.extra_repr().startswith("channels=")


def test_a_network_without_blocks_can_be_exported_and_pickled():
    net = randomize(Blocks()).eval()
    prune(net, ["a", "c"])
    expected = net(X)
    assert torch.allclose(torch.export.export(net, (X,)).module()(X), expected, atol=1e-6)
    assert torch.allclose(torch.jit.trace(net, X)(X), expected, atol=1e-6)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), expected)
