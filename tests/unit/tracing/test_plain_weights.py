"""Quantized and scripted networks are refused in a sentence; what only looks like one is not."""

import pytest
import torch
from torch import nn
from torch.ao import quantization

import gdp

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))


def prepared_for_training() -> nn.Module:
    net = network().train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(net)


def observed() -> nn.Module:
    net = network().eval()
    net.qconfig = quantization.get_default_qconfig("fbgemm")
    return quantization.prepare(net)


def dynamic() -> nn.Module:
    return quantization.quantize_dynamic(network().eval(), {nn.Linear}, dtype=torch.qint8)


class FakeQuantized(nn.Module):
    """A hand-made layer that holds a fake quantizer under its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.quantizer = nn.Conv2d(3, 8, 3), quantization.FakeQuantize()

    def forward(self, x):
        return self.quantizer(self.conv(x))


class TwoHalves(torch.Tensor):
    """A tensor that computes in its own way, as those of torchao and DTensor do."""

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=data.dtype)

    def __init__(self, data):
        self.data_of = data

    def __repr__(self):
        return "TwoHalves"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        plain = torch.utils._pytree.tree_map(lambda a: a.data_of if isinstance(a, cls) else a, (args, kwargs or {}))
        found = func(*plain[0], **plain[1])
        return cls(found) if func in (torch.ops.aten.detach.default,) else found


def special_weight() -> nn.Module:
    net = network()
    net[2].weight = nn.Parameter(TwoHalves(net[2].weight.detach()))
    return net


REFUSED = {
    "prepared_for_training": (prepared_for_training, r"0 is a torch Conv2d, which quantizes"),
    "observed": (observed, r"0\.activation_post_process is a torch \w*Observer, which quantizes"),
    "dynamic": (dynamic, r"5 is a torch Linear, which quantizes"),
    "by hand": (lambda: nn.Sequential(FakeQuantized(), nn.Conv2d(8, 4, 3)), r"0\.quantizer is a torch FakeQuantize"),
    "subclass": (special_weight, r"2\.weight is a TwoHalves of torch\.float32, not a plain tensor"),
}


@pytest.mark.parametrize("call", [gdp.trace, gdp.check])
@pytest.mark.parametrize("name", REFUSED)
def test_prune_first_then_quantize(name, call):
    build, reason = REFUSED[name]
    with pytest.raises(gdp.GDPError, match=f"{reason}.*Prune first, then quantize"):
        call(build(), X)


def test_stubs_of_a_network_that_is_not_quantized_yet_are_no_reason():
    class Stubs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave, self.add = (
                quantization.QuantStub(),
                quantization.DeQuantStub(),
                torch.ao.nn.quantized.FloatFunctional(),
            )
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            x = self.a(self.enter(x))
            return self.leave(self.b(self.add.add(x, x)))

    assert gdp.check(Stubs(), X).groups == (("a", 1, 8),)


SCRIPTS = {
    "script": lambda module, x: torch.jit.script(module),
    "trace": lambda module, x: torch.jit.trace(module.eval(), x),
    "freeze": lambda module, x: torch.jit.freeze(torch.jit.script(module.eval())),
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_scripted_network_is_refused(script):
    for call in (gdp.trace, gdp.check):
        with pytest.raises(gdp.GDPError, match=r"Expected a network of Python modules.*Give the Python module"):
            call(script(network(), X), X)


@pytest.mark.parametrize("place", ["2", "3"])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_scripted_part_that_forward_calls_is_named(script, place):
    net = network()
    net[int(place)] = script(net[int(place)], torch.randn(1, 8, 6, 6))
    part = net[int(place)]
    with pytest.raises(gdp.GDPError, match=f"forward calls {place}, which torch.jit has scripted or traced.*module="):
        gdp.trace(net, X)
    assert net[int(place)] is part


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_scripted_part_that_forward_does_not_call_is_left_alone(script):
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = network(), script(nn.Conv2d(4, 2, 1), torch.randn(1, 4, 2, 2))

        def forward(self, x):
            return self.net(x)

    whole = Beside()
    state = {name: value.clone() for name, value in whole.loss.state_dict().items()}
    graph = gdp.trace(whole, X)
    assert [g.name for g in graph.groups] == ["net.0", "net.2"]
    gates = gdp.insert_gates(whole, graph)
    gates.close("net.0", [1, 2])
    report = gdp.remove(whole, graph, gates)
    assert report.flops_after == report.flops_predicted and whole.net[0].weight.shape[0] == 6
    assert all(torch.equal(value, state[name]) for name, value in whole.loss.state_dict().items())


def test_a_scripted_function_is_followed():
    class Activated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
            self.act = torch.jit.script(swish)

        def forward(self, x):
            return self.b(self.act(self.a(x)))

    assert gdp.check(Activated(), X).groups == (("a", 1, 8),)


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)
