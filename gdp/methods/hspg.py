"""HSPG, the method of OTO v1 and v2: group lasso on what is to go, and projection to zero in a half-space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Role
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.hard_gates import HardGates
from gdp.methods.helpers import by_channel, globally
from gdp.methods.hesso import saliency
from gdp.methods.weights_of_channels import FILTERS, channel_norms


@dataclass(frozen=True)
class HSPG(HardGates):
    """Pull what was not chosen to zero by `strength * sum_c ||x_c||_2`, and project what turns away to exactly zero.

    x_c is the filter of a channel and what norms do to its output. Where the optimizer has made y_c of it with
    `<y_c, x_c> < epsilon ||x_c||^2`, it becomes 0 and stays 0; such a channel is closed, since nothing comes through.
    What was never projected closes at the end of the window.

    Attributes:
        strength: of the group lasso; 1e-3 with SGD, 1e-2 with Adam.
        epsilon: at the end of the window, in [0, 1); before, its distance from 1 falls from 1 on geometrically.
        gradient_interval: has to be 1, since the weights before every step are needed.

    Source: Chen et al., Only Train Once (OTO), NeurIPS 2021, arXiv 2107.07467, and OTO v2, ICLR 2023: what is to go is
    chosen by a score, as in v2; their code raises epsilon by 0.1 up to 0.999 while there is too little sparsity. Own:
    epsilon grows with the window; the score is the saliency of v3 (`HESSO`), and what was not chosen once stays so;
    v2's strengths per group are left out. The weights before a step are remembered, so a run needs memory, and its
    checkpoints space, for one more copy of the filters.

    Raises:
        GDPError: an option is out of range.
    """

    strength: float = 1e-3
    epsilon: float = 0.999
    gradient_interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.strength >= 0 and 0 <= self.epsilon < 1):
            raise GDPError(
                f"Expected strength of at least 0 and epsilon in [0, 1), but got {self.strength} and {self.epsilon}."
            )
        if self.gradient_interval != 1:
            raise GDPError(
                f"Expected gradient_interval to be 1, but got {self.gradient_interval}: HSPG compares the weights "
                "before and after every step."
            )

    def init_state(self, channels: int) -> MethodState:
        """Return no saliency yet, and no weights."""
        return {"saliency": torch.zeros(channels, dtype=torch.float32), "before": torch.zeros(0, dtype=torch.float32)}

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Remember the weights before the step, and their saliency if channels are chosen after it."""
        before = torch.cat([parameter.detach().flatten().float() for parameter in _parameters(context)])
        if context.window.last_due_step(context.steps + 1) == context.steps + 1:
            found = saliency(context)
            return {"saliency": torch.where(found.isfinite().all(), found, state["saliency"]), "before": before}
        return state | {"before": before}

    def penalty(self, state: MethodState, context: StepContext) -> Tensor | None:
        """Return the group lasso on channels that were not chosen."""
        if context.keep_mask is None:
            return None
        return self.strength * torch.where(context.keep_mask, 0.0, channel_norms(context, *FILTERS)).sum()

    def factors(self, state: MethodState, context: StepContext) -> dict[Role, Tensor] | None:
        """Return 0 for channels that were not chosen and have left the half-space, or are 0 already."""
        parameters = _parameters(context)
        sizes = [parameter.numel() for parameter in parameters]
        if context.keep_mask is None or sum(sizes) != len(state["before"]):  # nothing was read before this step
            return None
        pieces = zip(parameters, state["before"].split(sizes), strict=True)
        before = {id(parameter): piece.view(parameter.shape) for parameter, piece in pieces}
        inner = torch.stack([by_channel(context, r, lambda p: p.detach() * before[id(p)]) for r in FILTERS]).sum(0)
        square = torch.stack([by_channel(context, r, lambda p: before[id(p)].square()) for r in FILTERS]).sum(0)
        epsilon = 1 - (1 - self.epsilon) ** context.progress
        left = ~context.keep_mask & (inner <= epsilon * square)
        return dict.fromkeys(FILTERS, (~left).to(inner))

    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return x with the channels closed whose weights are 0."""
        if context.steps % context.window.selection_interval:
            return context.gate_param
        is_zero = channel_norms(context, *FILTERS) == 0
        return torch.where(is_zero & ~context.chosen, 0.0, context.gate_param)

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the saliency, to be compared over all groups; 0 for what was not chosen before."""
        score = state["saliency"]
        return globally(score if context.keep_mask is None else torch.where(context.keep_mask, score, 0.0), context)


def _parameters(context: StepContext) -> list[Tensor]:
    """Return the parameters of filters and norms, in the same order as long as nothing is cut."""
    return [tensor.parameter for role in FILTERS for tensor in context.tensors(role)]
