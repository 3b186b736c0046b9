"""Numbers and matrices per channel, on networks that are cut on the way, and scores compared between groups."""

import torch
from helpers.contexts import of_network
from helpers.networks import Residual, randomize
from torch import nn

import gdp
from gdp.methods import by_channel, globally, matrices, rank_match, relative, uniform

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A conv with a norm, and a classifier that reads every channel at four places."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.pool(self.act(self.norm(self.conv(x)))).flatten(1))


def test_each_parameter_has_its_role():
    context = of_network(Small(), X)
    names = {role: [t.name for t in context.tensors(role)] for role in ("writes", "reads", "scales", "shifts")}
    assert names == {
        "writes": ["conv.weight"],
        "reads": ["fc.weight"],
        "scales": ["norm.weight"],
        "shifts": ["conv.bias", "norm.bias"],
    }


def test_sums_by_channel_are_those_of_its_entries_and_have_gradients():
    net = Small()
    context = of_network(net, X)
    torch.testing.assert_close(by_channel(context, "writes", torch.abs), net.conv.weight.abs().sum((1, 2, 3)))
    torch.testing.assert_close(by_channel(context, "reads"), net.fc.weight.square().sum(0).view(4, 4).sum(1))
    torch.testing.assert_close(by_channel(context, "shifts", torch.abs), net.conv.bias.abs() + net.norm.bias.abs())
    by_channel(context, "reads").sum().backward()
    torch.testing.assert_close(net.fc.weight.grad, 2 * net.fc.weight.detach())


def test_after_a_cut_the_numbers_are_those_of_the_channels_that_are_left():
    net = randomize(Residual()).eval()
    context = of_network(net, X)
    gates, roles = context.gates, ("writes", "reads", "scales", "shifts")
    name, span = next(iter(gates.spans.items()))
    stays = torch.ones(len(gates.gate_param))
    stays[[span.start, span.start + 3]] = 0
    for tensor in (t for role in roles for t in context.tensors(role)):
        tensor.parameter.data *= tensor.expand(stays, 1.0)
    before = {role: by_channel(context, role).detach().clone() for role in roles}
    tables = {role: dict(zip(gates.spans, matrices(context, role), strict=False)) for role in roles}
    gates.close(name, [0, 3])
    gdp.surgery.shrink(gates)
    assert torch.equal(gates.removed, stays == 0)
    for role in roles:
        torch.testing.assert_close(by_channel(context, role), before[role], rtol=1e-5, atol=1e-6)
        assert before[role].any()
    (channels, matrix), (channels_before, matrix_before) = (
        next(iter(matrices(context, "scales"))),
        tables["scales"][name],
    )
    rows = [i for i in range(len(channels_before)) if i not in (0, 3)]
    assert channels.tolist() == channels_before[rows].tolist()
    assert torch.equal(matrix, matrix_before[rows]) and matrix.shape[1] > 0


def test_matrices_hold_what_may_stay_whether_the_rest_is_cut_already_or_not():
    tables = []
    for cut in (False, True):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
        net[0].weight.data = torch.arange(108.0).view(4, 3, 3, 3)
        context = of_network(net, X)
        context.gates.close("0", [1])
        if cut:
            gdp.surgery.shrink(context.gates)
        tables.append(next(iter(matrices(context, "writes"))))
    assert tables[0][0].tolist() == tables[1][0].tolist() == [0, 2, 3]
    assert tables[0][1].tolist() == tables[1][1].tolist() == torch.arange(108.0).view(4, 27)[[0, 2, 3]].tolist()


def test_uniform_takes_the_same_fraction_of_every_group():
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 40, 3), nn.ReLU(), nn.Conv2d(40, 10, 3))
    context = of_network(net, X)
    score = torch.cat([1000 * torch.rand(20), torch.rand(40)])  # of other sizes in the two groups
    graph, gates = context.gates.graph, context.gates
    chosen = gdp.selection.select_for_schedule(
        uniform(score, context), gates.group_of, torch.ones(60, dtype=torch.bool), graph.flops,
        gdp.selection.WidthConstraints.of(graph), 0.3, 0.3,
    )  # fmt: skip
    kept = chosen.open_counts / graph.flops.sizes
    assert (kept[0] - kept[1]).abs() < 0.051  # one channel of 20
    for span in gates.spans.values():
        mask = chosen.keep_mask[span]
        assert score[span][mask].min() > score[span][~mask].max()


def test_a_score_that_is_no_number_is_none_in_the_order_either():
    context = of_network(Small(), X)
    score = torch.tensor([1.0, float("nan"), 3.0, 2.0])
    assert uniform(score, context).isnan().tolist() == [False, True, False, False]
    assert rank_match(torch.ones(4), score, context).isnan().tolist() == [False, True, False, False]


def test_equal_scores_are_ordered_by_another_one():
    context = of_network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), X)
    score, ties = torch.tensor([2.0, 2.0, 1.0, 2.0]), torch.tensor([0.3, 0.1, 0.9, 0.2])
    assert (uniform(score, context) / context.marginal).tolist() == [0.5, 0.75, 0.25, 1.0]
    assert (uniform(score, context, ties) / context.marginal).tolist() == [1.0, 0.5, 0.25, 0.75]


def test_globally_compares_over_all_groups():
    context = of_network(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)), X)
    score = torch.tensor([1.0, 4.0, 2.0, 3.0, 0.5])
    torch.testing.assert_close((globally(score, context) / context.marginal).float(), score)


def test_rank_match_gives_the_best_by_identity_the_largest_number():
    context = of_network(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)), X)
    how_many = torch.tensor([5.0, 1.0, 3.0, 0.2, 0.4])
    which = torch.tensor([0.1, 0.2, 0.3, 9.0, 8.0])
    assert rank_match(how_many, which, context).tolist() == torch.tensor([1.0, 3.0, 5.0, 0.4, 0.2]).double().tolist()


def test_relative_scores_have_a_mean_of_one_over_the_channels_that_may_stay():
    context = of_network(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)), X)
    context.gates.close("0", [1])
    assert relative(torch.tensor([1.0, 7.0, 3.0, 0.0, 0.0]), context).tolist() == [0.5, 0.0, 1.5, 0.0, 0.0]
