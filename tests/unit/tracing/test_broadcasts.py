"""Broadcasts that are written out: one channel over many, in every form; factors per channel over positions."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import conv, randomize
from helpers.small_net import Net, X, prune
from torch import nn

import gdp
from gdp.utils import count_flops

MASKS = {
    "expand_as": lambda m, x: x * m.expand_as(x),
    "expand by the shape of the other": lambda m, x: x * m.expand(-1, x.shape[1], -1, -1),
    "expand to a size": lambda m, x: x * m.expand(x.size()),
    "broadcast_to": lambda m, x: x + torch.broadcast_to(m, x.shape),
    "broadcast_tensors": lambda m, x: torch.mul(*torch.broadcast_tensors(x, m)),
    "repeat": lambda m, x: x * m.repeat(1, x.shape[1], 1, 1),
    "tile": lambda m, x: x * m.tile(1, x.size(1), 1, 1),
    "ones times it": lambda m, x: x * (torch.ones_like(x) * m),
    "first in the product": lambda m, x: (1 + m.expand_as(x).contiguous()) * x,
    "in place": lambda m, x: x.mul_(m.expand_as(x)),
    "flattened": lambda m, x: (x.flatten(2) * m.expand_as(x).flatten(2)).view(x.shape),
    "permuted": lambda m, x: (x.permute(0, 2, 3, 1) * m.expand_as(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "as a condition": lambda m, x: torch.where((m > 0.4).expand_as(x), x, x / 2),
    "joined along positions": lambda m, x: torch.cat([m.expand_as(x), x], 2),
    "with another mask": lambda m, x: x * (m.expand_as(x) + m.expand_as(x).flip(2)),
}


def bam(c: int) -> nn.Sequential:
    """The spatial half of a bottleneck attention module."""
    return nn.Sequential(conv(c, 4, 1), conv(4, 4, dilation=2, padding=2), nn.Conv2d(4, 1, 1), nn.BatchNorm2d(1))


@pytest.mark.parametrize("one", [lambda: nn.Conv2d(8, 1, 3, padding=1), lambda: bam(8)], ids=["conv", "bam"])
@pytest.mark.parametrize("form", MASKS.values(), ids=MASKS)
def test_a_mask_over_all_channels_lets_them_go(form, one):
    def body(self, x):
        y = self.a(x)
        return self.head(form(self.one(y).sigmoid(), y + self.b(x)))

    graph, report = prune(net := randomize(Net(body, one=one())))
    assert (graph.groups[0].name, graph.groups[0].size) == ("a.0", 8), graph.reasons()
    assert {m.partition(".")[0] for m in graph.groups[0].readers} == {"one", "head"}
    assert report.max_rel < 1e-5 and report.flops_after == report.flops_predicted == count_flops(net, X)


FACTORS = {
    "expand_as": lambda s, x: x * s.expand_as(x),
    "expand": lambda s, x: x * s.expand(-1, -1, x.shape[2], x.shape[3]),
    "repeat": lambda s, x: x * s.repeat(1, 1, *x.shape[2:]),
    "first the batch": lambda s, x: x * s[:1].expand(len(x), -1, -1, -1).expand_as(x),
}


@pytest.mark.parametrize("form", FACTORS.values(), ids=FACTORS)
def test_factors_per_channel_go_with_their_channels(form):
    def body(self, x):
        y = self.a(x)
        return self.head(form(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))).sigmoid(), y))

    graph, report = prune(net := randomize(Net(body, down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1))))
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 8), ("down", 4)]
    assert "up.weight" in {a.tensor for a in graph["a.0"].tensors} and report.max_rel < 1e-5
    assert report.flops_after == report.flops_predicted == count_flops(net, X)


@pytest.mark.parametrize("stored", ["parameter", "buffer"])
@pytest.mark.parametrize("form", [MASKS["expand_as"], MASKS["repeat"], MASKS["broadcast_to"]])
def test_a_stored_table_over_positions_lets_channels_go(form, stored):
    net = Net(lambda self, x: self.head(form(self.table, self.a(x))))
    if stored == "parameter":
        net.table = nn.Parameter(torch.rand(1, 1, 12, 12))
    else:
        net.register_buffer("table", torch.rand(1, 1, 12, 12))
    graph, report = prune(net)
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 8)] and report.max_rel < 1e-5
    assert net.table.shape == (1, 1, 12, 12)


def test_an_input_of_one_channel_masks_all():
    def body(self, x):
        y = self.a(x)
        return self.head(y * x.amax(1, keepdim=True).expand(-1, y.shape[1], -1, -1))

    graph, report = prune(Net(body))
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 8)] and report.max_rel < 1e-5


def test_what_must_stay_is_not_forgotten_where_it_is_copied_along_positions():
    """Features of attention have a fixed number of channels, and tell so to what they are added to."""

    def body(self, x):
        tokens = self.a(x).flatten(2).transpose(1, 2)
        pooled = F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1, keepdim=True)
        return self.head((self.b(x).flatten(2).transpose(1, 2) + pooled.expand_as(tokens)).transpose(1, 2)[..., None])

    assert "b.0 (8 channels): meets channels that must stay in add" in gdp.trace(Net(body), X, dry_run=False).reasons()


@pytest.mark.parametrize("form", [lambda m, x: x * m.expand(2, 8, 12, 12), lambda m, x: x * m.repeat(1, 8, 1, 1)])
def test_a_written_number_of_copies_stays_and_its_line_is_named(form):
    layers = {"b2": conv(8, 8), "one": nn.Conv2d(8, 1, 1)}
    net = randomize(Net(lambda self, x: self.head(self.b2(form(self.one(self.a(x)), self.a(x)))), **layers))
    report = gdp.check(net, X)
    assert [name for name, *_ in report.groups] == ["b2.0"]
    assert any(f.name == "a.0" and "test_broadcasts.py" in f.reason for f in report.frozen)


def test_a_sum_over_copies_depends_on_their_number_and_is_found():
    def body(self, x):
        y = self.a(x)
        return self.head(y) + self.one(x).expand_as(y).sum(1, keepdim=True)

    report = gdp.check(randomize(Net(body, one=nn.Conv2d(3, 1, 1))), X)
    assert report.groups == () and any(f.name == "a.0" and "differs" in f.reason for f in report.frozen)


def test_channels_that_are_one_unit_stay_one_unit_where_they_are_not_copies():
    """A view ties the eight rows of a group; what meets them there is tied as well, since nobody copies it."""

    def body(self, x):
        rows = self.a(x).view(len(x), 4, -1, 12, 12)
        return self.head((rows * self.b(x).view(rows.shape)).flatten(1, 2))

    graph, report = prune(net := randomize(Net(body)))
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 2)] and report.max_rel < 1e-5
    assert net.b[0].out_channels == net.a[0].out_channels == 4
