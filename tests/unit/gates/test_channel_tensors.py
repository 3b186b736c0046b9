"""Sums over the entries of a channel, however many each has in a parameter."""

import torch
from helpers.contexts import of_network
from torch import nn

from gdp.gates import ChannelTensor, channel_sums


def tensor(channel, *shape):
    parameter = nn.Parameter(torch.arange(float(len(channel))).add(1).view(*shape))
    return ChannelTensor("weight", parameter, shape.index(-1), torch.tensor(channel))


def test_channels_may_have_other_numbers_of_entries_and_entries_may_belong_to_none():
    found = tensor([2, 0, 2, 3, 0, 2], -1)
    assert channel_sums((found,), 3, torch.square).tolist() == [4 + 25, 0, 1 + 9 + 36]
    channel_sums((found,), 3, torch.square).sum().backward()
    assert found.parameter.grad.tolist() == [2, 4, 6, 0, 10, 12]


def test_parameters_are_added_up():
    tensors = (tensor([1, 0], -1, 1), tensor([0, 0, 1], 1, -1), tensor([2, 0], -1))
    assert channel_sums(tensors, 2, torch.abs).tolist() == [2 + 1 + 2 + 2, 1 + 3]


def test_all_of_a_parameter_may_be_cut():
    empty = ChannelTensor("weight", nn.Parameter(torch.zeros(0, 3)), 0, torch.zeros(0, dtype=torch.long))
    assert channel_sums((empty,), 2, torch.square).tolist() == [0, 0]


def test_parameters_that_are_added_to_channels_shift_them_and_factors_scale_them():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2)
            self.class_token, self.gain = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.last(self.first(x) * self.gain + self.class_token)

    context = of_network(Raw(), torch.randn(2, 5, 3))
    names = {role: [t.name for t in context.tensors(role)] for role in ("writes", "reads", "scales", "shifts")}
    assert names == {
        "writes": ["first.weight"],
        "reads": ["last.weight"],
        "scales": ["gain"],
        "shifts": ["class_token"],
    }
