"""Whatever forward returns, its tensors are found, and what reaches them stays."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from helpers.small_net import Net, X, prune

import gdp
from gdp.utils import count_flops, output_tensors


@dataclass
class Detection:
    boxes: torch.Tensor
    features: list[torch.Tensor] = field(default_factory=list)
    name: str = "boxes"


@dataclass
class Result:
    detection: Detection
    loss: torch.Tensor | None = None


class Pair(NamedTuple):
    first: torch.Tensor
    second: Detection


class ModelOutput(OrderedDict):
    """An ordered dict of a class of its own, whose entries are attributes, too."""

    def __getattr__(self, name):
        return self[name]


class Instances:
    """A plain object with fields, which knows itself."""

    def __init__(self, **found) -> None:
        self.found, self.me = found, self


class Boxes(list):
    pass


class Slots:
    """An object without a dict, one of whose attributes is private and another not set."""

    __slots__ = ("__scores", "boxes", "masks")

    def __init__(self, scores, boxes) -> None:
        self.__scores, self.boxes = scores, boxes


class SlotsAndMore(Slots):
    pass


RETURNS = {
    "dataclass": lambda y, z: Detection(y, [z, y]),
    "nested": lambda y, z: Result(Detection(y, [z]), y),
    "namedtuple": lambda y, z: Pair(y, Detection(z)),
    "ordered": lambda y, z: OrderedDict(a=y, b=[z]),
    "model_output": lambda y, z: ModelOutput(logits=y, hidden=(z, z)),
    "user_dict": lambda y, z: UserDict(a=y, b={"c": z}),
    "object": lambda y, z: Instances(scores=y, boxes=[z]),
    "namespace": lambda y, z: SimpleNamespace(y=y, z=z),
    "own_list": lambda y, z: [Boxes([y]), {"z": Boxes([z])}],
    "slots": lambda y, z: {"found": Slots(y, [z])},
    "slots_of_a_base_class": lambda y, z: SlotsAndMore(y, Slots(z, 3)),
    "set": lambda y, z: (y, {z}),
    "tuple_of_all": lambda y, z: (y, None, "text", 3, Result(Detection(z))),
}


@pytest.mark.parametrize("name", RETURNS)
def test_all_tensors_are_found_in_order(name):
    y, z = torch.zeros(1), torch.ones(1)
    found = output_tensors(RETURNS[name](y, z))
    assert found[0] is y and z in found and all(t is y or t is z for t in found)


@pytest.mark.parametrize("name", RETURNS)
def test_a_network_that_returns_it_is_pruned(name):
    torch.manual_seed(0)
    net = Net(lambda self, x: RETURNS[name](self.head(self.a(x)), self.b(x)))
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["a.0"] and report.max_rel < 1e-5
    assert {f.name: f.reason for f in report.frozen}["b.0"] == "reaches the network's output"
    assert report.flops_after == report.flops_predicted == count_flops(net, X)
    assert "forward" not in vars(net) and type(net(X)) is type(RETURNS[name](X, X))


def test_a_hook_of_the_users_sees_what_forward_returns():
    seen = []
    net = Net(lambda self, x: Detection(self.head(self.a(x))))
    net.register_forward_hook(lambda _, inputs, outputs: seen.append(type(outputs)))
    assert gdp.check(net, X).groups and set(seen) == {Detection} and len(net._forward_hooks) == 1


@pytest.mark.parametrize(
    "returned",
    [lambda y: (t for t in [y]), lambda y: map(torch.relu, [y]), lambda y: lambda: y, lambda y: None],
    ids=["generator", "map", "function", "none"],
)
@pytest.mark.parametrize("call", [gdp.check, gdp.trace, count_flops])
def test_a_network_in_whose_outputs_no_tensor_is_found_is_refused(returned, call):
    """Nothing would be used then, nothing compared, and nothing counted."""
    net = Net(lambda self, x: returned(self.head(self.a(x))))
    with pytest.raises(gdp.GDPError, match=f"found none in what it returns, a {type(returned(0)).__name__}"):
        call(net, X)


@pytest.mark.parametrize(
    "returned",
    [
        lambda x, y, z: {"logits": z, "size": x.shape[2:]},
        lambda x, y, z: (z, y.shape[-1] // 2, y.shape[0] * 0.5),
        lambda x, y, z: Detection(z, [], y.size(1)),
        lambda x, y, z: torch.distributions.Normal(z, 1.0, validate_args=False),
        lambda x, y, z: (z, z.shape, z.argmax()),
    ],
    ids=["sizes", "numbers", "channels", "distribution", "beside_a_scalar"],
)
def test_sizes_among_the_outputs_are_no_tensors(returned):
    """torch.jit.trace makes tensors of them; all groups would seem to change the outputs."""

    def body(self, x):
        y = self.a(x)
        return returned(x, y, self.head(y))

    graph, report = prune(Net(body))
    assert [g.name for g in graph.groups] == ["a.0"] and report.flops_after == report.flops_predicted
