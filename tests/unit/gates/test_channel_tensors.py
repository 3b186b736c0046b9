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


def test_sums_of_squares_have_their_gradients_in_every_type_and_layout():
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    for kind, dim in ((torch.float32, 0), (torch.float32, 1), (torch.bfloat16, 1), (torch.float16, 0)):
        parameter = nn.Parameter(weight.to(kind))
        found = ChannelTensor("weight", parameter, dim, torch.arange(parameter.shape[dim]))
        sums = channel_sums((found,), 4)
        others = [d for d in range(4) if d != dim]
        expected = parameter.detach().float().square().sum(others)
        torch.testing.assert_close(sums[: len(expected)], expected)
        (sums * torch.arange(4.0)).sum().backward()
        by_hand = (
            2
            * parameter.detach()
            * torch.arange(4.0)[: parameter.shape[dim]].view([-1 if d == dim else 1 for d in range(4)]).to(kind)
        )
        torch.testing.assert_close(parameter.grad, by_hand)
    tiny = ChannelTensor("bias", nn.Parameter(torch.tensor([1e-4]).half()), 0, torch.tensor([0]))
    assert channel_sums((tiny,), 1).item() > 0.9e-8
