"""The gradient of a gate is in the gradient of the weight behind it."""

import pytest
import torch
from torch import nn

from gdp.gates import gate_gradient


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gates_gradient_is_in_the_weights_gradient(transposed):
    """sum(W_c * dL/dW_c) = g_c * dL/dg_c, against autograd on the gate itself."""
    conv = nn.ConvTranspose2d(5, 4, 3) if transposed else nn.Conv2d(5, 4, 3)
    function = nn.functional.conv_transpose2d if transposed else nn.functional.conv2d
    gate, x = torch.rand(5, requires_grad=True), torch.randn(2, 5, 7, 7)
    dim = 0 if transposed else 1
    shape = [1] * 4
    shape[dim] = 5
    weight = conv.weight.detach().requires_grad_()
    loss = function(x, weight * gate.view(shape), conv.bias).square().sum()
    loss.backward()
    torch.testing.assert_close(
        gate_gradient(weight.detach(), weight.grad, dim), gate.detach() * gate.grad, rtol=1e-4, atol=1e-3
    )
