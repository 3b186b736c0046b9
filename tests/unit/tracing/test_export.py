"""What torch.export alone can't follow is followed, or refused with the cause and the line of the network's source."""

import numpy as np
import pytest
import torch
from helpers.small_net import Net, X, prune
from torch import nn

import gdp


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.data.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


class ScaledInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.mark_dirty(x)
        return x.mul_(scale.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx, grad, _):
        return grad, None


def shortcut_by_data(self, x):
    y = self.a(x)
    return self.head(torch.cat([y.data, torch.zeros_like(y)], 1) + torch.cat([self.b(x), y], 1))


def old_variable(self, x):
    y = self.a(x)
    return self.head(self.b(x) * y + torch.autograd.Variable(y.data))


def data_of_data(self, x):
    y = self.a(x)
    y.data = y.data.abs()
    return self.head(y.data.data * y)


def by_functions(self, x):
    return self.head(Sign.apply(Swish.apply(self.a(x))))


def by_function_in_place(self, x):
    return self.head(ScaledInPlace.apply(self.a(x) + 0, self.b[0].bias))


FOLLOWED = {
    "shortcut_by_data": (shortcut_by_data, 16, ["a.0"]),
    "old_variable": (old_variable, 8, ["a.0"]),
    "data_of_data": (data_of_data, 8, ["a.0"]),
    "by_functions": (by_functions, 8, ["a.0"]),
    "by_function_in_place": (by_function_in_place, 8, ["a.0"]),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_are_followed_through_data_and_through_functions_with_their_own_gradient(name):
    body, channels, groups = FOLLOWED[name]
    torch.manual_seed(0)
    net = Net(body, channels)
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == groups and report.max_rel < 1e-5
    assert report.flops_after == report.flops_predicted


def test_channels_behind_data_that_is_rolled_are_known_to_be_others():
    def rolled(self, x):
        y = self.a(x)
        y.data = y.data.roll(1, 1)
        return self.head(y)

    assert gdp.check(Net(rolled), X).groups == ()


class MaxNorm(nn.Conv2d):
    """Renews its weight before every use (EEGNet)."""

    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.5)
        return super().forward(x)


class Clipped(nn.Conv2d):
    def forward(self, x):
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


@pytest.mark.parametrize("layer", [MaxNorm, Clipped])
def test_weights_that_are_written_to_in_forward_are_as_they_were(layer):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), layer(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
    )
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    places = [p.data_ptr() for p in net.parameters()]
    report = gdp.check(net, X)
    assert any(name == "4" for name, *_ in report.groups)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert [p.data_ptr() for p in net.parameters()] == places


def test_another_shape_of_data_is_refused_with_the_line():
    def reshaped(self, x):
        y = self.a(x)
        y.data = y.data[:, :4]
        return self.head(torch.cat([y, y], 1))

    with pytest.raises(
        gdp.GDPError, match=r"set to a tensor of shape \(2, 4, 12, 12\) at test_export\.py:\d+: y\.data"
    ):
        gdp.trace(Net(reshaped), X)


def by_numpy(self, x):
    scale = torch.from_numpy(np.asarray(self.a(x).mean().numpy()))
    return self.head(self.b(x) * scale)


def by_float(self, x):
    return self.head(self.b(x) * float(self.a(x).mean()))


@pytest.mark.parametrize("body", [by_numpy, by_float])
def test_what_forward_can_only_be_read_for_is_read(body):
    torch.manual_seed(0)
    with torch.no_grad():
        graph = gdp.trace(Net(body), X, dry_run=False)
    assert [g.name for g in graph.groups] == ["b.0"]


def by_value(self, x):
    y = self.a(x)
    return self.head(y if y.mean().item() > -9 else -y)


def test_flow_that_depends_on_data_is_refused_quietly_with_its_line(capfd, caplog):
    with pytest.raises(gdp.GDPError, match=r"torch\.export can't follow Net\.forward.*at test_export\.py:\d+: return"):
        gdp.trace(Net(by_value), X)
    out, err = capfd.readouterr()
    assert not out and "conv2d" not in err and not [r for r in caplog.records if r.levelno > 10]


WRONG = {
    "too small": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(15), nn.Conv2d(8, 4, 1)),
        X,
        "Output size is too small",
    ),
    "channels": (Net(lambda self, x: self.head(self.a(x))), torch.randn(1, 1, 12, 12), "to have 3 channels"),
    "one input too many": (Net(lambda self, x: self.head(self.a(x))), (X, X), "positional arguments"),
    "features": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7, 2)), X, "shapes cannot be multiplied"),
}


@pytest.mark.parametrize("call", [gdp.trace, gdp.check])
@pytest.mark.parametrize("name", WRONG)
def test_an_input_on_which_forward_itself_fails_is_named_as_the_cause(name, call):
    net, x, error = WRONG[name]
    with pytest.raises(
        gdp.GDPError, match=f"forward itself fails on the example input.*{error}.*Give an input that"
    ) as e:
        call(net, x)
    assert "control flow" not in str(e.value)


def test_the_line_on_which_forward_itself_fails_is_given():
    def picky(self, x):
        assert x.shape[-1] > 100, "too small"
        return self.head(self.a(x))

    with pytest.raises(gdp.GDPError, match=r"AssertionError: too small at test_export\.py:\d+: assert x\.shape"):
        gdp.trace(Net(picky), X)


class OnlyEager(nn.Module):
    """torch.export follows it, and torch.jit.trace does not."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(layers))
        self.head, self.calls = nn.Conv2d(8, 4, 1), []
        self.register_forward_pre_hook(lambda *_: passes.append(1))

    def forward(self, x):
        for conv in self.convs:
            x = conv(x).relu()
        if torch.jit.is_tracing():
            raise RuntimeError("not under torch.jit.trace")
        return self.head(x)


class Sorted(OnlyEager):
    def forward(self, x):
        if torch.jit.is_tracing():
            return self.head(self.convs[99](x))
        return super().forward(x)


passes: list[int] = []


@pytest.mark.parametrize("build", [OnlyEager, Sorted])
def test_a_network_that_fvcore_cant_trace_is_refused_by_one_count(build):
    net = build(12)
    passes.clear()
    with pytest.raises(gdp.GDPError, match=r"fvcore can't count the FLOPs of .* at test_export\.py:\d+"):
        gdp.check(net, X)
    assert len(passes) < 8
