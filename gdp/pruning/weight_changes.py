"""What a method does to weights: a penalty that is trained along, and factors after the optimizer's step."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

from gdp.methods import MethodState, PruningMethod, StepContext, check_factors, check_scalar
from gdp.utils import add_gradient


def add_penalty(
    method: PruningMethod, state: MethodState, context: StepContext, scale: float, trained: Container[int] | None
) -> None:
    """Add the gradient of a method's penalty to the gradients of the parameters, if it has one.

    Args:
        method: of the run.
        state: what it remembers.
        context: where the run is.
        scale: what the penalty is multiplied with, as the loss is.
        trained: ids of the parameters that are about to be stepped; None for all of the network.
    """
    with torch.enable_grad():
        every = [p for p in context.gates.model.parameters() if trained is None or id(p) in trained]
        penalty = method.penalty(state, context)
        check_scalar(method, "penalty", penalty)
        add_gradient(penalty, every, scale)


def multiply_weights(method: PruningMethod, state: MethodState, context: StepContext, finite: Tensor) -> None:
    """Multiply the parameters of channels with the method's factors, if it has some; frozen ones stay as they are.

    Args:
        method: of the run.
        state: what it remembers.
        context: where the run is.
        finite: whether loss and gradients of this step were finite, bool of shape (); nothing is multiplied if not, nor
            with a factor that is not.
    """
    factors = method.factors(state, context)
    check_factors(method, factors, len(context.gate_param))
    for role, factor in (factors or {}).items():
        factor = torch.where(finite.to(factor.device) & factor.isfinite(), factor, 1.0)
        for tensor in (tensor for tensor in context.tensors(role) if tensor.parameter.requires_grad):
            tensor.parameter.data.mul_(tensor.expand(factor, 1.0).to(tensor.parameter.dtype))
