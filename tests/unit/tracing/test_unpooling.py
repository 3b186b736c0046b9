"""max_unpool: what is pooled and unpooled by the same indices are the same channels; counted as fvcore would."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import SegNet, conv, randomize
from helpers.small_net import Net, X, prune
from torch import nn

import gdp
from gdp.utils import count_and_run, count_flops, run_forward

DIMENSIONS = {
    1: (nn.Conv1d, F.max_pool1d, F.max_unpool1d),
    2: (nn.Conv2d, F.max_pool2d, F.max_unpool2d),
    3: (nn.Conv3d, F.max_pool3d, F.max_unpool3d),
}


class Unpooled(nn.Module):
    """A conv, pooling, a conv on what was pooled, unpooling and a head, in any number of dimensions."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        layer, self.pool, self.unpool = DIMENSIONS[dims]
        self.a, self.b, self.head = layer(3, 8, 3, padding=1), layer(8, 8, 3, padding=1), layer(8, 4, 1)

    def forward(self, x):
        y, indices = self.pool(self.a(x).sigmoid(), 2, return_indices=True)
        return self.head(self.unpool(self.b(y).relu(), indices, 2, output_size=x.shape[2:]))


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("dims", DIMENSIONS)
def test_pooled_and_unpooled_channels_go_together(dims, size):
    torch.manual_seed(0)
    net, x = Unpooled(dims), torch.randn(2, 3, *[size] * dims)
    positions, pooled, taps = size**dims, (size // 2) ** dims, 3**dims
    dense = 2 * (positions * 3 * 8 * taps + pooled * 8 * 8 * taps + positions * 8 * 4)
    graph, report = prune(net, x)
    assert [(g.name, g.size) for g in graph.groups] == [("a", 8)] and report.flops_before == dense
    assert report.flops_after == report.flops_predicted == count_flops(net, x) and report.max_rel < 1e-5


def test_counting_gives_the_true_outputs_and_leaves_torch_as_it_was():
    net = randomize(SegNet()).eval()
    flops, (out,) = count_and_run(net, X)
    assert flops == SegNet.flops and torch.equal(out, run_forward(net, (X,))[0]) and not torch.jit.is_tracing()


def test_the_report_says_what_fvcore_could_not_trace():
    report, other = gdp.check(randomize(SegNet()), X), gdp.check(Net(lambda self, x: self.head(self.a(x))), X)
    assert report.notes == ("fvcore can't trace max_unpool2d and does not know it: it is counted as 0 FLOPs",)
    assert report.notes[0] in " ".join(str(report).split()) and other.notes == ()
    assert gdp.Report.from_dict(report.to_dict(), report.plan).notes == report.notes


def test_indices_that_are_returned_keep_their_channels():
    net = Net(lambda self, x: (self.head(self.b(x)), F.max_pool2d(self.a(x), 2, return_indices=True)[1]))
    graph, _ = prune(net)
    assert [g.name for g in graph.groups] == [
        "b.0"
    ] and "a.0 (8 channels): reaches the network's output" in graph.reasons()


def test_other_channels_unpooled_by_the_same_indices_are_the_same_units():
    def body(self, x):
        y, indices = F.max_pool2d(self.a(x), 2, return_indices=True)
        return self.head(F.max_unpool2d(self.c(y), indices, 2) + F.max_unpool2d(self.d(y), indices, 2))

    graph, report = prune(net := randomize(Net(body, c=conv(8, 8), d=conv(8, 8))))
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 8)] and report.max_rel < 1e-5
    assert net.d[0].out_channels == net.c[0].out_channels == 4
