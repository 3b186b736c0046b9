"""Every network of the helpers: FLOPs by hand, by fvcore and by gdp; an exact cut; and a wrong one would be seen."""

import pytest
import torch
from helpers.comparison import close_some, relative
from helpers.networks import NETS, Literal, inputs, randomize
from torch import nn
from torch.utils._pytree import tree_leaves

import gdp
from gdp.surgery import freeze_uncuttable_groups
from gdp.utils import count_flops, run_forward

TOLERANCE = 1e-5

every_net = pytest.mark.parametrize("make", NETS, ids=lambda n: n.__name__)


def nets_with(attribute: str):
    nets = [n for n in NETS if hasattr(n, attribute)]
    return pytest.mark.parametrize("make", nets, ids=lambda n: n.__name__)


def gated(make: type[nn.Module]) -> tuple[nn.Module, gdp.ChannelGraph, gdp.gates.Gates]:
    """A net with random weights and gates, all open."""
    torch.manual_seed(0)
    net = randomize(make())
    for parameter in net.parameters():  # hardly a channel is dead behind its ReLU
        parameter.data = 2 * parameter.data if parameter.dim() > 1 else parameter.data.abs()
    traced = gdp.trace(net, inputs(net), dry_run=False)
    graph = freeze_uncuttable_groups(net, traced)
    assert make is Literal or [g.name for g in graph.groups] == [g.name for g in traced.groups]
    return net, graph, gdp.insert_gates(net, graph)


@every_net
def test_flops_by_hand_equal_fvcore(make):
    net = make()
    assert make.flops == count_flops(net, inputs(net)) == gdp.trace(net, inputs(net), dry_run=False).flops.dense


def described(net: nn.Module) -> list[tuple]:
    """Everything but sizes: names and classes of modules, what is stored and what is trained."""
    modules = [(n, type(m).__name__, m._forward_hooks, m._forward_pre_hooks) for n, m in net.named_modules()]
    return [*modules, *net.state_dict(), *((name, p.requires_grad) for name, p in net.named_parameters())]


@every_net
def test_cut_equals_gated(make):
    net, graph, gates = gated(make)
    x, other = inputs(net), inputs(net, seed=1)
    dense = run_forward(net, x)
    gates.gate_param.uniform_(0.3, 1.0)  # what stays open has to be folded
    close_some(graph, gates)
    expected, expected_other = run_forward(net, x), run_forward(net, other)
    report = gdp.remove(net, graph, gates)
    assert (
        relative(expected, run_forward(net, x)) < TOLERANCE
        and relative(expected_other, run_forward(net, other)) < TOLERANCE
    )
    assert relative(expected, expected_other) > 1e-2  # control: the output depends on the input,
    assert relative(dense, expected) > 1e-2  # and on what was closed
    assert report.max_rel < TOLERANCE
    assert make.flops == report.flops_before > report.flops_after == report.flops_predicted == count_flops(net, x)
    assert report.params_after < report.params_before
    assert described(net) == described(make())


@every_net
def test_one_channel_left_open_would_be_seen(make):
    net, graph, gates = gated(make)
    x = inputs(net)
    close_some(graph, gates)
    expected = run_forward(net, x)
    for name, closed in gates.closed.items():
        for channel in gates.spans[name].start + torch.tensor(closed):
            gates.gate_param[channel] = 1.0
            gates.set()
            assert relative(expected, run_forward(net, x)) > 100 * TOLERANCE, name
            gates.gate_param[channel] = 0.0
    gates.set()
    assert relative(expected, run_forward(net, x)) == 0.0


@every_net
def test_the_cut_network_trains(make):
    net, graph, gates = gated(make)
    close_some(graph, gates)
    gdp.remove(net, graph, gates)
    before = run_forward(net, inputs(net))
    sum(out.sum() for out in tree_leaves(net.train()(*inputs(net)))).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert relative(before, run_forward(net, inputs(net))) > 0.0


@nets_with("after")
def test_flops_that_remain_by_hand_equal_fvcore(make):
    net, graph, gates = gated(make)
    closed, flops = make.after
    for name, channels in closed.items():
        gates.close(name, channels)
    report = gdp.remove(net, graph, gates)
    assert flops == report.flops_predicted == report.flops_after == count_flops(net, inputs(net))


@nets_with("stays")
def test_what_stays_has_its_reason(make):
    _, graph, _ = gated(make)
    assert make.stays in graph.reasons()
