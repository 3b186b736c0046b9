"""What has a size that depends on data stays; what lies before it is pruned."""

import pytest
import torch
from helpers.small_net import Net, X, prune
from torch import nn

import gdp

ONE = X[:1]


def keypoints(self, x):
    scores = self.head(self.a(x))[0, 0].sigmoid()
    points = torch.nonzero(scores > 0.5)
    return scores, torch.flip(points, [1])


def described(self, x):
    y = self.a(x)
    found = torch.nonzero(self.head(y)[0, 0] > 0)
    rows = self.describe(y)[0, :, found[:, 0], found[:, 1]].t()
    return rows / rows.norm(dim=1, keepdim=True), found


def masked(self, x):
    y = self.a(x)
    scores = self.head(y)
    kept = scores[scores > 0]
    return scores, kept * 2, torch.cat([kept, scores.flatten()])


BODIES = {
    "described": (described, {"describe": nn.Conv2d(8, 6, 1)}, {"a.0"}),
    "masked": (masked, {}, {"a.0"}),
    "keypoints": (keypoints, {}, {"a.0"}),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_part_before_it_is_pruned(name):
    body, layers, groups = BODIES[name]
    torch.manual_seed(0)
    net = Net(body, **layers)
    graph, report = prune(net, ONE)
    assert {g.name for g in graph.groups} == groups
    assert report.max_rel < 1e-5 and report.flops_after == report.flops_predicted


def test_the_reason_names_the_operator():
    net = Net(described, describe=nn.Conv2d(8, 6, 1))
    reasons = {f.name: f.reason for f in gdp.trace(net, ONE, dry_run=False).frozen}
    assert "meets a size that depends on data" in reasons["describe"]
