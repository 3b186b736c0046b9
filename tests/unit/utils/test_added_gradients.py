import torch
from torch import nn

from gdp.utils import add_gradient


def test_the_gradient_of_a_loss_is_added_to_the_one_that_is_there():
    """By hand: d(a^2 b)/da = 2 a b = 12 and d/db = a^2 = 4, both times the scale."""
    a, b, other, frozen = (nn.Parameter(torch.tensor(v)) for v in (2.0, 3.0, 5.0, 7.0))
    frozen.requires_grad_(False)
    a.grad = torch.tensor(1.0)
    add_gradient(a**2 * b * frozen / 7, [a, b, other, frozen], scale=10.0)
    assert (a.grad.item(), b.grad.item()) == (121, 40)
    assert other.grad is None and frozen.grad is None


def test_nothing_happens_without_a_loss_or_a_graph():
    a = nn.Parameter(torch.tensor(2.0))
    for loss in (None, torch.tensor(1.0)):
        add_gradient(loss, [a])
    add_gradient(a * 2, [])
    assert a.grad is None
