"""Optimizers that hold other optimizers, or tensors in places of their own."""

import copy

import pytest
import torch
from helpers.networks import Chain
from helpers.optimizers import REFUSED, SAM, Flat, ListOfLists, Lookahead
from torch.utils._pytree import tree_leaves

import gdp
from gdp.surgery import check_optimizers_cuttable, shrink

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def stepped(make):
    """A gated network with channels to cut, and its optimizer after a step."""
    net = Chain()
    gates = gdp.insert_gates(net, gdp.trace(net, X))
    optimizer = make(list(net.parameters()))

    def closure():
        optimizer.zero_grad()
        loss = net(X).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    name = next(iter(gates.spans))
    gates.close(name, [0, 2])
    return net, gates, optimizer


@pytest.mark.parametrize("make", REFUSED)
def test_tensors_that_no_parameter_leads_to_are_refused_by_class_and_place_and_nothing_changes(make):
    net, gates, optimizer = stepped(lambda p: make(p, lr=0.1, momentum=0.9))
    shapes = [p.shape for p in net.parameters()]
    with pytest.raises(gdp.GDPError, match=r"shrink='end'") as error:
        check_optimizers_cuttable(gates, [optimizer])
    with pytest.raises(gdp.GDPError):
        shrink(gates, [optimizer])
    assert make.__name__ in str(error.value) and "'" in str(error.value)
    assert [p.shape for p in net.parameters()] == shapes


def test_an_attribute_is_named_with_the_way_to_the_tensor():
    _, gates, optimizer = stepped(lambda p: ListOfLists(p, lr=0.1))
    with pytest.raises(gdp.GDPError, match=r"ListOfLists keeps a tensor of shape \(\d.*\) in 'slow'"):
        check_optimizers_cuttable(gates, [optimizer])


def test_a_refusal_within_a_wrapper_names_the_inner_optimizer():
    _, gates, optimizer = stepped(lambda p: Lookahead(Flat(p, lr=0.1)))
    with pytest.raises(gdp.GDPError, match="Flat keeps a tensor"):
        check_optimizers_cuttable(gates, [optimizer])


class Projector:
    """As low-rank optimizers keep in their state."""

    def __init__(self, p):
        self.orthogonal = torch.eye(p.shape[0])


def test_objects_with_tensors_in_the_state_are_refused():
    def make(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        for p in parameters:
            optimizer.state[p]["projector"] = Projector(p)
        return optimizer

    _, gates, optimizer = stepped(make)
    with pytest.raises(gdp.GDPError, match=r"SGD keeps 'projector' of shape \(\d+, \d+\) for"):
        check_optimizers_cuttable(gates, [optimizer])


def test_lists_of_the_parameters_themselves_and_numbers_are_no_state():
    def make(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
        optimizer.trained, optimizer.by_name = list(parameters), {"all": set(parameters)}
        optimizer.seen = [torch.tensor(3.0), torch.tensor([1])]
        optimizer.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return optimizer

    net, gates, optimizer = stepped(make)
    assert shrink(gates, [optimizer]) is not None
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in net.parameters())


def test_undoing_a_cut_puts_the_state_of_inner_optimizers_back():
    net, gates, optimizer = stepped(lambda p: SAM(p, lr=0.1, momentum=0.9))
    held = [optimizer.state, optimizer.base_optimizer.state]
    before = [[copy.deepcopy(s[p]) for p in net.parameters()] for s in held]
    undo = shrink(gates, [optimizer])
    assert all(t.shape == p.shape for s in held for p in net.parameters() for t in tree_leaves(s[p]))
    undo()
    now = [[s[p] for p in net.parameters()] for s in held]
    assert all(map(torch.equal, tree_leaves(now), tree_leaves(before)))
