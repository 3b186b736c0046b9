"""Feature flow: length and curvature of the way of features through a residual stream."""

import pytest
import torch
from helpers.scores import X, chain, channels, cut, scores
from torch import nn

import gdp
from gdp.gates import Activation, Seen
from gdp.methods import FFR

METHOD = FFR(length=0.1, curvature=0.5)


class Stream(nn.Module):
    """Two branches beside a stream of two channels, the first of which reads it twice, and a layer that reads it."""

    def __init__(self):
        super().__init__()
        pairs = ((2, 2), (2, 2), (2, 2), (2, 2), (2, 1))
        self.stem, self.one, self.other, self.two, self.last = (nn.Conv2d(n, m, 1, bias=False) for n, m in pairs)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.one(x) * self.other(x)
        return self.last(x + self.two(x))


def seen(**features):
    """What layers have read: tensors filled with a number each; equal numbers are one tensor."""
    tensors = {value: torch.full((1, 2, 2, 2), float(value), requires_grad=True) for value in features.values()}
    channel = torch.tensor([0, 1])
    return Seen(tuple(Activation(name, tensors[v], 1, channel) for name, v in features.items()), None, None), tensors


def test_the_loss_is_the_one_by_hand():
    context = channels(Stream())
    found, tensors = seen(one=0, other=0, two=1, last=4)
    loss = METHOD.forward_loss({}, found, context)
    assert loss.item() == pytest.approx(0.1 * (1 + 3) + 0.5 * 2)
    loss.backward()
    # 8 numbers each: d/df_2 of |f_2 - f_1| + |f_3 - f_2| is 0, of the curvature -2
    assert tensors[1].grad.flatten().tolist() == pytest.approx([0.5 * -2 / 8] * 8)


def test_tensors_of_other_shapes_and_other_layers_are_no_part_of_the_way():
    found, _ = seen(one=0, two=1)
    other = Activation("last", torch.ones(1, 2, 1, 1), 1, torch.tensor([0, 1]))
    beside = Activation("elsewhere", torch.ones(1, 2, 2, 2) * 9, 1, torch.tensor([0, 1]))
    loss = METHOD.forward_loss({}, Seen((*found.activations, other, beside), None, None), channels(Stream()))
    assert loss.item() == pytest.approx(0.1)
    assert METHOD.forward_loss({}, Seen((other,), None, None), channels(Stream())) is None


def test_channels_are_compared_by_the_filters_that_write_them():
    net = Stream()
    for conv in (net.stem, net.one, net.other, net.two):
        conv.weight.data[:, :, 0, 0] = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    context = channels(net)
    assert scores(FFR(), context) == [3.5355, 0.7071]  # sqrt(4 * 25 / 8) and sqrt(4 * 1 / 8)
    cut(context, "stem", [1])
    assert scores(FFR(), context) == [3.2249, 0.0]  # the branches do not read it any more: sqrt((25 + 3 * 9) / 5)


@pytest.mark.parametrize(
    "net", [chain([[1.0, 0.0]] * 3, [[1.0] * 3]), chain([[1.0, 0.0]] * 3, [[1.0] * 3], [[1.0] * 1])]
)
def test_a_network_without_a_stream_is_refused_before_anything_is_changed(net):
    with pytest.raises(gdp.GDPError, match=r"no channels are written and read by several layers.*method='oicsr'"):
        gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 10, FFR())
    assert type(net[2]) is nn.Conv2d


def test_layers_that_read_one_tensor_side_by_side_are_no_stream():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(2, 2, 1) for _ in range(3))

        def forward(self, x):
            x = self.stem(x)
            return self.a(x) * self.b(x)

    with pytest.raises(gdp.GDPError, match="FFR"):
        FFR().check_graph(gdp.trace(Fork(), X, dry_run=False))


def test_negative_weights_are_refused():
    with pytest.raises(gdp.GDPError, match="length and curvature of at least 0"):
        FFR(length=-1.0)
