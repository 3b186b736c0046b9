"""Gradients of the weights that read a channel."""

import pytest
import torch
from helpers.scores import chain, channels, cut, places, scores

import gdp
from gdp.methods import DCP


def graded():
    """A chain whose weights have gradients: those that read a channel have norms 5, 0, 1 and 2, 4."""
    net = chain([[1.0, 1.0]] * 3, [[1.0, 1.0, 1.0]] * 2, [[1.0, 1.0]])
    net[2].weight.grad = torch.tensor([[3.0, 0.0, 1.0], [-4.0, 0.0, 0.0]])[..., None, None]
    net[4].weight.grad = torch.tensor([[2.0, -4.0]])[..., None, None]
    return net


NORMS = torch.tensor([5.0, 0.0, 1.0, 2.0, 4.0]) / 46**0.5


def test_the_running_mean_is_that_of_the_norms_over_all_that_reads():
    net, method = graded(), DCP()
    context = channels(net)
    state = method.update(method.init_state(5), torch.zeros(5), context)
    torch.testing.assert_close(state["norm"], 0.1 * NORMS)
    net[4].weight.grad = None
    state = method.update(state, torch.zeros(5), context)
    second = torch.tensor([5.0, 0.0, 1.0, 0.0, 0.0]) / 26**0.5
    torch.testing.assert_close(state["norm"], 0.09 * NORMS + 0.1 * second)
    assert scores(method, context, state) == places([3, 1, 2], [1, 2])


def test_the_scale_of_a_batch_does_not_matter_and_what_is_not_finite_changes_nothing():
    net, method = graded(), DCP()
    context = channels(net)
    for conv in (net[2], net[4]):
        conv.weight.grad *= 1024
    state = method.update(method.init_state(5), torch.zeros(5), context)
    torch.testing.assert_close(state["norm"], 0.1 * NORMS)
    net[2].weight.grad[0, 0] = float("inf")
    assert torch.equal(method.update(state, torch.zeros(5), context)["norm"], state["norm"])


def test_after_a_cut_gradients_are_those_of_what_is_left():
    net, method = graded(), DCP()
    context = channels(net)
    cut(context, "0", [2])
    state = method.update(method.init_state(5), torch.zeros(5), context)
    torch.testing.assert_close(state["norm"], 0.1 * torch.tensor([5.0, 0.0, 0.0, 2.0, 4.0]) / 45**0.5)


def test_classes_are_needed_and_memory_has_its_range():
    assert DCP().needs_labels
    with pytest.raises(gdp.GDPError, match=r"memory in \[0, 1\), but got -0\.1"):
        DCP(memory=-0.1)
