"""A cut network is an ordinary network: every way out of this process, and out of PyTorch, gives its numbers."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnxruntime
import pytest
import torch
from helpers.layered import with_holes
from helpers.networks import SqueezeExcite
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model

import gdp
from gdp.layers import LinearConv2d, ShiftedConv2d, StripeConv2d

ROUNDING = 1e-5  # of the largest output: compilers fuse BN into convs and sum in another order, 2e-6 at most here
FAR = 1e-3  # what an error has to give at least: a hundred times what is allowed
NETS: dict[str, Callable[[], nn.Module]] = {
    name: partial(get_model, name, weights=None) for name in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")
}
DEEPLAB = "deeplabv3_mobilenet_v3_large"  # two outputs, in a dict
NETS[DEEPLAB] = partial(get_model, DEEPLAB, weights=None, weights_backbone=None, aux_loss=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.trace(_method)?` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning:torch.onnx"),
]


@dataclass(frozen=True)
class Cut:
    """A pruned network, one that differs in a single channel that was cut, and two batches."""

    make: Callable[[], nn.Module]
    dense: nn.Module
    net: nn.Module
    other: nn.Module
    report: gdp.Report
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, make: Callable[[], nn.Module], size: int) -> Cut:
        torch.manual_seed(0)
        dense = calibrated(make(), torch.randn(8, 3, size, size))
        x, y = torch.randn(2, 2, 3, size, size)
        graph = gdp.trace(dense, x, dry_run=False)
        first = graph.groups[0]
        order = {g.name: torch.randperm(g.size) for g in graph.groups}
        closed = {g.name: order[g.name][: round(0.4 * g.size)] for g in graph.groups}
        swapped = closed | {first.name: torch.cat([closed[first.name][1:], order[first.name][-1:]])}
        net, other = copy.deepcopy(dense), copy.deepcopy(dense)
        prune(other, graph, swapped)
        return cls(make, dense, net, other, prune(net, graph, closed), x, y)


def calibrated(net: nn.Module, x: Tensor) -> nn.Module:
    """Random BN scales, biases and statistics around those of `x`: signals stay of one size through any depth."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean += torch.randn_like(norm.running_mean) * norm.running_var.sqrt() / 4
        norm.running_var *= torch.rand_like(norm.running_var) + 0.5
    return net.eval()


def prune(net: nn.Module, graph: gdp.ChannelGraph, closed: dict[str, Tensor]) -> gdp.Report:
    gates = gdp.insert_gates(net, graph)
    for name, channels in closed.items():
        gates.close(name, channels)
    return gdp.remove(net, graph, gates)


def outputs(net: Callable[[Tensor], Any], x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return tree_leaves(net(x))


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    assert [t.shape for t in a] == [t.shape for t in b] and all(t.isfinite().all() for t in (*a, *b))
    return max(((p - q).abs().max() / p.abs().max()).item() for p, q in zip(a, b, strict=True))


def check(cut: Cut, ran: Callable[[Tensor], Any], tolerance: float = ROUNDING) -> None:
    """`ran` computes what the cut network does, on a batch it was made with and on one it has not seen."""
    assert distance(outputs(cut.net, cut.x), outputs(ran, cut.x)) <= tolerance
    seen = outputs(ran, cut.y)
    assert distance(outputs(cut.net, cut.y), seen) <= tolerance
    assert distance(outputs(cut.other, cut.y), seen) > FAR  # controls: one other channel in the cut would be seen,
    assert distance(outputs(cut.net, cut.x), seen) > FAR  # and the output depends on the input


@pytest.fixture(scope="module", params=NETS)
def cut(request) -> Cut:
    return Cut.of(NETS[request.param], 64)


@pytest.fixture(scope="module")
def tiny() -> Cut:
    return Cut.of(SqueezeExcite, 12)


def exported(net: nn.Module, x: Tensor) -> Callable:
    return torch.export.export(net, (x,)).module()


def traced(net: nn.Module, x: Tensor) -> Callable:
    return torch.jit.trace(net, x, strict=False)  # dict outputs are not strict


def compiled(net: nn.Module, x: Tensor, **options: Any) -> Callable:
    torch.compiler.reset()
    return torch.compile(net, fullgraph=True, **({"backend": "aot_eager"} | options))


def onnx(net: nn.Module, x: Tensor, dynamo: bool = True) -> Callable:
    file = io.BytesIO()
    if dynamo:
        torch.onnx.export(net, (x,), dynamo=True, verbose=False).save(file)
    else:
        torch.onnx.export(net, (x,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(out) for out in session.run(None, {name: x.numpy()})]


def legacy_onnx(net: nn.Module, x: Tensor) -> Callable:
    return onnx(net, x, dynamo=False)


def copied(net: nn.Module, x: Tensor) -> Callable:
    return copy.deepcopy(net)


def pickled(net: nn.Module, x: Tensor) -> Callable:
    return pickle.loads(pickle.dumps(net))


def state_dict(net: nn.Module, x: Tensor) -> Callable:
    """Its tensors by way of a file, in a network of the same sizes."""
    file, same = io.BytesIO(), zeroed(net)
    torch.save(net.state_dict(), file)
    file.seek(0)
    same.load_state_dict(torch.load(file, weights_only=True))
    return same


def zeroed(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    for tensor in net.state_dict().values():
        tensor.zero_()
    return net


COMPILERS = [exported, traced, compiled, onnx, legacy_onnx]
COPIES = [copied, pickled, state_dict]


def test_the_networks_are_cut_and_comparable(cut):
    report = cut.report
    assert report.flops_after == report.flops_predicted < 0.6 * report.flops_before and report.max_rel <= ROUNDING
    assert all(kept == size - round(0.4 * size) for _, kept, size in report.groups)
    assert distance(outputs(cut.dense, cut.x), outputs(cut.net, cut.x)) > 0.1
    assert [t.shape for t in cut.other.state_dict().values()] == [t.shape for t in cut.net.state_dict().values()]


@pytest.mark.parametrize("route", COMPILERS)
def test_compilers_give_the_same_numbers(cut, route):
    check(cut, route(cut.net, cut.x))


@pytest.mark.parametrize("route", COPIES)
def test_copies_give_the_same_bits(cut, route):
    check(cut, route(cut.net, cut.x), tolerance=0.0)


@pytest.mark.parametrize("route", COMPILERS + COPIES)
def test_no_route_hides_a_wrong_cut(tiny, route):
    """Control of the routes: what was made of the other network is the other network."""
    check(tiny, route(tiny.net, tiny.x))
    ran = route(tiny.other, tiny.x)
    assert distance(outputs(tiny.other, tiny.y), outputs(ran, tiny.y)) <= ROUNDING
    with pytest.raises(AssertionError):
        check(tiny, ran)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_numbers(tiny):
    check(tiny, compiled(tiny.net, tiny.x, backend="inductor"))


def test_a_file_of_save_pruned_fills_a_new_network(cut, tmp_path):
    gdp.save_pruned(cut.net, tmp_path / "small.pt")
    check(cut, gdp.load_pruned(cut.make(), tmp_path / "small.pt").eval(), tolerance=0.0)
    gdp.save_pruned(cut.other, tmp_path / "other.pt")
    with pytest.raises(AssertionError):
        check(cut, gdp.load_pruned(cut.make(), tmp_path / "other.pt").eval())


def test_a_pickle_holds_nothing_of_gdp_and_no_dense_tensor(cut):
    blank = zeroed(cut.net)  # random weights would spell anything
    assert b"gdp" not in pickle.dumps(blank)
    assert type(pickle.loads(pickle.dumps(cut.net))) is type(cut.dense)
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in cut.net.state_dict().values())
    blank.report = cut.report  # control: a record left on the network
    assert b"gdp" in pickle.dumps(blank)


def test_a_copy_trains_and_leaves_the_original_alone(cut):
    before, twin = copy.deepcopy(cut.net.state_dict()), copy.deepcopy(cut.net)
    optimizer = torch.optim.SGD(twin.parameters(), 0.01)
    sum(out.square().mean() for out in tree_leaves(twin.train()(cut.x))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in twin.parameters())
    optimizer.step()
    assert distance(outputs(cut.net, cut.y), outputs(twin.eval(), cut.y)) > FAR
    assert all(torch.equal(tensor, before[name]) for name, tensor in cut.net.state_dict().items())
    assert all(p.grad is None for p in cut.net.parameters())


def striped() -> nn.Module:
    layer = with_holes(StripeConv2d(3, 6, 3, stride=2, padding=1))
    return nn.Sequential(ShiftedConv2d.of(layer), nn.ReLU(), LinearConv2d(6, 4, 3)).eval()


@pytest.mark.parametrize("legacy", [False, True], ids=["onnx", "onnx by TorchScript"])
def test_layers_of_fewer_weights_give_their_numbers_in_onnx(legacy, tmp_path):
    net, x = striped(), torch.randn(2, 3, 9, 9)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=not legacy, input_names=["x"], verbose=False)
    (found,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(x).detach(), rtol=ROUNDING, atol=ROUNDING)
