import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gdp
from gdp.layers import LinearConv2d, StripeConv2d, correlation_loss, penalty


def net() -> nn.Sequential:
    return nn.Sequential(LinearConv2d(3, 8, 3), nn.ReLU(), StripeConv2d(8, 4, 3), nn.ReLU(), LinearConv2d(4, 6, 1))


def test_it_is_the_sum_over_all_layers():
    model = net()
    model[2].skeleton.data[0, 0] = torch.tensor([-2.0, 0.0, 0.5])
    filters = [model[i].primary.weight for i in (0, 4)]
    expected = 0.01 * sum(correlation_loss(f) for f in filters) + 1e-5 * (36 - 3 + 2.5)
    torch.testing.assert_close(penalty(model), expected)
    torch.testing.assert_close(penalty(model, correlation=0, sparsity=2), torch.tensor(71.0))


def test_the_derivative_of_the_norm_is_the_sign_and_none_at_zero():
    model = net()
    model[2].skeleton.data[0, 0] = torch.tensor([-2.0, 0.0, 0.5])
    penalty(model, sparsity=3.0).backward()
    assert model[2].skeleton.grad[0, 0].tolist() == [-3, 0, 3]


def test_there_is_none_without_such_layers_or_without_weights():
    assert penalty(nn.Sequential(nn.Conv2d(3, 8, 3))) is None
    assert penalty(net(), correlation=0, sparsity=0) is None


def test_gates_do_not_act_in_it():
    model, x = (
        nn.Sequential(nn.Conv2d(3, 5, 3), LinearConv2d(5, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        torch.randn(1, 3, 9, 9),
    )
    expected = penalty(model)
    gates = gdp.insert_gates(model, gdp.trace(model, x, dry_run=False))
    gates.close("0", [1, 3])
    assert torch.equal(penalty(model), expected)
    gates.withdraw()


def test_filters_of_parametrized_layers_are_those_that_they_compute_with():
    model = net()
    expected = penalty(model)
    parametrizations.weight_norm(model[0].primary)
    assert penalty(model).item() == pytest.approx(expected.item())
