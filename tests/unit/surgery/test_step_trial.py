"""What a training step reads inside the network beside `forward`."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import conv
from torch import nn
from torch.utils.checkpoint import checkpoint

import gdp
from gdp.surgery import try_step

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Stages(nn.Module):
    """Four stages, one of them depthwise, and a classifier."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(8, 12), conv(12, 12, groups=12), conv(12, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.d(self.c(self.b(self.a(x)))).mean((2, 3)))


def tried(make_loss, net=None):
    """What a trial finds, by name; the network must be as it was."""
    torch.manual_seed(0)
    net = net or Stages()
    extra = nn.ModuleDict({"neck": nn.Conv2d(12, 2, 1), "head": nn.Linear(8, 3)})
    gates = gdp.insert_gates(net, gdp.trace(net, X))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    storage = {name: p.data_ptr() for name, p in net.named_parameters()}

    @contextmanager
    def step():
        yield make_loss(net, extra)

    buffers = {name: b.clone() for name, b in net.named_buffers()}

    @contextmanager
    def protected():
        yield
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])

    trial = try_step(gates, step, protected)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert {name: p.data_ptr() for name, p in net.named_parameters()} == storage
    assert all(p.grad is None for p in net.parameters())
    return trial


def test_a_step_that_calls_forward_alone_needs_nothing():
    trial = tried(lambda net, extra: net(X).square().mean())
    assert trial.failing == {} and trial.read == {}


@pytest.mark.parametrize("penalty", [lambda p: p.square().sum(), lambda p: p.abs().mean()])
def test_a_penalty_on_weights_reads_no_channels(penalty):
    trial = tried(lambda net, extra: net(X).square().mean() + sum(map(penalty, net.parameters())))
    assert trial.failing == {} and trial.read == {}


def test_dropout_makes_no_difference_of_its_own():
    trial = tried(lambda net, extra: F.dropout(net(X), 0.5).square().mean())
    assert trial.failing == {} and trial.read == {}


def test_a_module_that_only_the_step_calls_is_found_with_error_and_line():
    trial = tried(lambda net, extra: net(X).mean() + extra["neck"](net.c(net.b(net.a(X)))).mean())
    assert set(trial.failing) == {"b.0"} and trial.read == {}
    assert "training_step can't follow a cut: Given groups=1" in trial.failing["b.0"]
    assert "raised at test_step_trial.py" in trial.failing["b.0"]


def test_several_readers_are_all_found():
    def loss(net, extra):
        a = net.a(X)
        return extra["head"](a.mean((2, 3))).mean() + extra["neck"](net.b(a)).mean() + net(X).mean()

    assert set(tried(loss).failing) == {"a.0", "b.0"}


def test_features_of_a_hook_against_those_of_a_teacher_are_found():
    teacher, seen = Stages().requires_grad_(False), {}

    def loss(net, extra):
        hooks = [part.register_forward_hook(lambda m, i, out: seen.update({m: out})) for part in (net.d, teacher.d)]
        out = net(X) + teacher(X)
        for hook in hooks:
            hook.remove()
        return out.mean() + F.mse_loss(seen[net.d], seen[teacher.d])

    assert set(tried(loss).failing) == {"d.0"}


@pytest.mark.parametrize(
    "penalty",
    [
        lambda f: f.square().mean(),
        lambda f: 1e-4 * f.abs().sum(),
        lambda f: (f.mean(1) - 1).square().mean(),
        lambda f: f.flatten(1)[:, :5].sum(),
    ],
)
@pytest.mark.parametrize("part", ["a", "c"])
def test_activations_that_the_loss_depends_on_are_read(penalty, part):
    def loss(net, extra):
        a = net.a(X)
        return net(X).square().mean() + penalty(a if part == "a" else net.c(net.b(a)))

    trial = tried(loss)
    assert trial.failing == {} and set(trial.read) == {"a.0" if part == "a" else "b.0"}
    assert "beside forward" in trial.read["a.0" if part == "a" else "b.0"]


def test_what_is_only_looked_at_is_not_read():
    seen = []

    def loss(net, extra):
        seen.append(net.a(X).detach().mean())
        return net(X).square().mean()

    trial = tried(loss)
    assert trial.failing == {} and trial.read == {} and len(seen) == 3


def test_a_size_in_the_step_that_only_a_check_knows_is_found():
    def loss(net, extra):
        if net.b[0].out_channels != 12:
            raise ValueError("twelve channels, please")
        return net(X).mean()

    assert "twelve channels, please" in tried(loss).failing["b.0"]


def test_groups_that_fail_only_together_are_all_named():
    def loss(net, extra):
        if net.a[0].out_channels < 8 and net.b[0].out_channels < 12:
            raise ValueError("one of you at least")
        return net(X).mean()

    failing = tried(loss).failing
    assert set(failing) >= {"a.0", "b.0"} and "these groups together" in failing["a.0"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints_are_run_as_they_are(reentrant):
    def loss(net, extra):
        x = checkpoint(net.a, X.requires_grad_(), use_reentrant=reentrant)
        x = checkpoint(net.b, x, use_reentrant=reentrant)
        return net.head(net.d(net.c(x)).mean((2, 3))).mean() + extra["neck"](x).mean()

    assert set(tried(loss).failing) == {"b.0"}


def test_a_step_that_fails_anyway_says_nothing():
    def loss(net, extra):
        raise ValueError("never")

    assert tried(loss) is None


def test_a_raw_weight_and_a_transposed_conv_are_read_as_well():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.norm = nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(8)
            self.weight, self.last = nn.Parameter(torch.randn(6, 8, 1, 1)), nn.Conv2d(6, 4, 1)

        def features(self, x):
            return F.relu(self.norm(self.up(x)))

        def forward(self, x):
            return self.last(F.conv2d(self.features(x), self.weight))

    read = tried(lambda net, extra: net(X).mean() + 0.1 * net.up(X).square().mean(), Net()).read
    assert set(read) == {"up"}
    failing = tried(
        lambda net, extra: net(X).mean() + extra["head"](net.features(X).mean((2, 3))).mean(), Net()
    ).failing
    assert set(failing) == {"up"}


def test_channels_that_are_cut_already_and_groups_that_are_held_take_no_part():
    net = Stages()
    gates = gdp.insert_gates(net, gdp.trace(net, X))
    gates.graph = gates.graph.hold_open({"d.0": "asked for"})
    gates.close("a.0", [0, 3])
    gates.close("b.0", range(11))
    gdp.surgery.shrink(gates)
    neck = nn.Conv2d(6, 2, 1)

    @contextmanager
    def step():
        yield net(X).mean() + neck(net.a(X)).mean() + net.d(net.c(net.b(net.a(X)))).mean()

    trial = try_step(gates, step, nullcontext)
    assert set(trial.failing) == {"a.0"} and trial.read == {}
