"""Cutting on the way: training goes on as if the closed channels were still there, in a smaller network."""

import copy

import pytest
import torch
from helpers.comparison import close_some
from helpers.networks import NETS, Blocks, Chain, Literal, inputs
from helpers.optimizers import Lookahead, ScheduleFree, SharedState
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_leaves

import gdp
from gdp.surgery import shrink

TIGHT = {"rtol": 1e-8, "atol": 1e-10}


class Lion(torch.optim.Optimizer):
    """Chen et al., arXiv 2302.06675, as people write it."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=1e-2):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                moment = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                first, second = group["betas"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.sign(moment * first + p.grad * (1 - first)), alpha=-group["lr"])
                moment.lerp_(p.grad, 1 - second)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "sgd fused": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, fused=True),
    "sgd foreach": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=1e-2),
    "adam foreach": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0.1, fused=True),
    "lion": Lion,
    "nadam": lambda p: torch.optim.NAdam(p, 1e-3),
    "radam": lambda p: torch.optim.RAdam(p, 1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-3),
    "adamax": lambda p: torch.optim.Adamax(p, 1e-3),
    "lookahead": lambda p: Lookahead(torch.optim.Adam(p, 1e-3), every=2),
    "lookahead in lookahead": lambda p: Lookahead(Lookahead(torch.optim.SGD(p, 1e-3, momentum=0.9)), every=2),
    "state shared with a list of optimizers": lambda p: SharedState(p, lr=1e-3, momentum=0.9),
    "schedule-free": lambda p: ScheduleFree(p),
}


def train(net: nn.Module, x, optimizer, steps: int = 3) -> None:
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum((t**2).mean() for t in tree_leaves(net(*x)) if isinstance(t, torch.Tensor))
        (0.01 * loss).backward()
        optimizer.step()


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trained(make, on_the_way: bool, optimizer="nesterov", blocks=False, x=None, rounds=3):
    """A net in float64 whose channels are closed in several rounds of training, cut at once or all at the end."""
    torch.manual_seed(0)
    net = make().double()
    x = inputs(net) if x is None else x
    x = tuple(t.double() if t.is_floating_point() else t for t in x)
    graph = gdp.trace(net, x, blocks=blocks)
    gates, parameters = gdp.insert_gates(net, graph), list(net.parameters())
    adjust = OPTIMIZERS[optimizer](parameters)
    sizes = []
    for share in [0.2 + 0.2 * r for r in range(rounds)]:
        gates.gate_param.clamp_max_(1 - share / 2)  # gates that are still open are not all 1
        close_some(graph, gates, share)
        for block in graph.blocks[1:] if share > 0.5 else ():
            for name in block.groups:
                gates.close(name, range(graph[name].size))
        if on_the_way:
            undo = shrink(gates, [adjust])
            assert undo is not None and shrink(gates, [adjust]) is None
        train(net, x, adjust)
        sizes.append(sum(p.numel() for p in net.parameters()))
        for p in parameters:
            assert all(v.shape == p.shape for v in tree_leaves(adjust.state.get(p, {})) if v.dim())
    report = gdp.remove(net, graph, gates, [adjust])
    if not blocks:
        assert [id(p) for p in net.parameters()] == [id(p) for p in parameters]
        train(net, x, adjust)  # the optimizer trains the small network on
    return net, report, sizes


def assert_same(one, other) -> None:
    assert one[1].plan == other[1].plan
    numbers = [{**report.to_dict(), "max_abs": 0, "max_rel": 0} for report in (one[1], other[1])]
    assert numbers[0] == numbers[1]
    states = [result[0].state_dict() for result in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, **TIGHT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("make", NETS, ids=lambda n: n.__name__)
def test_every_net_ends_as_if_cut_at_the_end(make):
    late, early = trained(make, False), trained(make, True)
    assert_same(late, early)
    assert late[2][0] == late[2][-1] and (early[2][0] > early[2][-1] or make is Literal)


class NoBias(nn.Sequential):
    """A bias before a batch norm has no gradient but rounding, which an optimizer of signs makes as large as any."""

    def __init__(self) -> None:
        super().__init__(*Chain())
        self[0][0].bias = self[1][0].bias = None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_with_its_state(optimizer):
    assert_same(trained(NoBias, False, optimizer), trained(NoBias, True, optimizer))


def test_a_wrong_optimizer_state_would_be_seen(monkeypatch):
    cut = shrink

    def forgetful(gates, optimizers):
        for state in optimizers[0].state.values():
            state["momentum_buffer"].zero_()
        return cut(gates, optimizers)

    late = trained(Chain, False)
    monkeypatch.setitem(trained.__globals__, "shrink", forgetful)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(late, trained(Chain, True))


def test_blocks_go_as_a_whole_at_the_end_only():
    late, early = (trained(Blocks, way, blocks=True, x=(X,)) for way in (False, True))
    assert early[1].blocks == ("b", "c") and early[2][-1] < late[2][-1] / 2
    assert_same(late, early)


@pytest.mark.parametrize("make", [torch.optim.Adafactor, lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2)])
def test_other_optimizer_state_is_refused_and_nothing_changes(make):
    net = Chain()
    x = inputs(net)
    graph = gdp.trace(net, x)
    gates = gdp.insert_gates(net, graph)
    optimizer = make(net.parameters())

    def closure():
        optimizer.zero_grad()
        loss = (net(*x) ** 2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    gates.close("0.0", [1])
    before = copy.deepcopy(net.state_dict())
    for cut in (lambda: shrink(gates, [optimizer]), lambda: gdp.remove(net, graph, gates, [optimizer])):
        with pytest.raises(gdp.GDPError, match=r"keeps '.*' of shape .* for 0.0.weight of shape .*shrink='end'"):
            cut()
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert shrink(gates) is not None  # without it, everything works


def test_undo_puts_everything_back():
    net = Chain()
    x, graph = inputs(net), gdp.trace(net, inputs(net))
    gates, average = gdp.insert_gates(net, graph), copy.deepcopy(net)
    gates.track_copy(average)
    optimizer = OPTIMIZERS["adam"](net.parameters())
    train(net, x, optimizer)
    gates.close("0.0", [1, 5])
    before, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    index, held = gates.index.clone(), copy.deepcopy(average.state_dict())
    shrink(gates, [optimizer])()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v, held[k]) for k, v in average.state_dict().items())
    assert torch.equal(gates.index, index) and not gates.removed.any()
    again = optimizer.state_dict()["state"]
    assert all(torch.equal(v, again[i][k]) for i, s in state["state"].items() for k, v in s.items())
    train(net, x, optimizer)


def test_an_average_is_gated_and_cut_along():
    ends = []
    for on_the_way in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(Chain(), nn.ReLU()).double()
        x = tuple(t.double() for t in inputs(Chain()))
        whole = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
        part = AveragedModel(net[0], multi_avg_fn=get_ema_multi_avg_fn(0.5))
        graph = gdp.trace(net, x)
        gates = gdp.insert_gates(net, graph)
        gates.track_copy(whole.module)
        gates.track_copy(part.module, "0")
        optimizer = OPTIMIZERS["nesterov"](net.parameters())
        for share in (0.2, 0.4, 0.6):
            gates.gate_param.clamp_max_(1 - share / 2)
            close_some(graph, gates, share)
            if on_the_way:
                shrink(gates, [optimizer])
            for _ in range(3):
                train(net, x, optimizer, 1)
                whole.update_parameters(net)
                part.update_parameters(net[0])
            gated = whole.module.eval()(*x)  # an average acts through the gates of the network
        report = gdp.remove(net, graph, gates, [optimizer])
        torch.testing.assert_close(whole.module.eval()(*x), gated, **TIGHT)
        assert not any("gate" in name for m in (whole, part) for name in m.state_dict())
        ends.append((nn.ModuleList([net, whole, part]), report))
    assert_same(*ends)
    assert ends[1][0][1].module[0][0][0].out_channels == ends[1][0][0][0][0][0].out_channels < 8


def test_a_copy_of_another_network_is_refused():
    net = Chain()
    gates = gdp.insert_gates(net, gdp.trace(net, inputs(net)))
    with pytest.raises(gdp.GDPError, match="Expected a copy of Chain, but Sequential has other parameters"):
        gates.track_copy(nn.Sequential(nn.Conv2d(3, 8, 3)))


@pytest.mark.slow
def test_a_pruner_resumes_on_a_cut_network():
    """In a plain loop: state of the pruner first, which cuts; then those of network and optimizer."""

    def run(steps, interrupt=None):
        torch.manual_seed(0)
        net = Chain().double()
        x = tuple(t.double() for t in inputs(net))
        pruner = gdp.Pruner(net, gdp.trace(net, x), 0.4, steps, gdp.Polar(closing=4))
        optimizer = OPTIMIZERS["adam"](net.parameters())
        at = 0
        while at < steps:
            optimizer.zero_grad()
            (net.train()(*x) ** 2).mean().backward()
            pruner.watch()
            optimizer.step()
            pruner.step()
            at += 1
            if at % 5 == 0:
                pruner.shrink([optimizer])
            if at == interrupt:
                saved = copy.deepcopy((pruner.state_dict(), net.state_dict(), optimizer.state_dict()))
                net = Chain().double()
                pruner = gdp.Pruner(net, gdp.trace(net, x), 0.4, steps, gdp.Polar(closing=4))
                pruner.load_state_dict(saved[0])
                net.load_state_dict(saved[1])
                pruner.resume()
                optimizer = OPTIMIZERS["adam"](net.parameters())
                optimizer.load_state_dict(saved[2])
        pruner.finish()
        return net, gdp.remove(net, pruner.graph, pruner.gates, [optimizer])

    whole = run(40)
    for interrupt in (2, 17, 20, 38):
        again = run(40, interrupt)
        assert again[1].plan == whole[1].plan
        assert all(torch.equal(v, whole[0].state_dict()[k]) for k, v in again[0].state_dict().items())
