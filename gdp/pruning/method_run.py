"""MethodRun: a method, what it remembers in a run, and what holds whatever it says."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.methods import (
    MethodState,
    PruningMethod,
    Seen,
    StepContext,
    check_finalized,
    check_importance,
    check_learned,
    check_method,
    check_scalar,
    check_state,
    check_vector,
    unchanged,
)
from gdp.pruning.weight_changes import add_penalty, multiply_weights
from gdp.utils import Snapshot, broadcast_from_rank_zero, mean_of_all_ranks

SMALLEST_OPEN = 1e-8  # x of a gate that is chosen to stay, at least


class MethodRun:
    """Ask a method, and tell it, in a run.

    Whatever it says, channels that were chosen stay open, channels that are closed for good stay closed, what was cut
    out stays away, and at the end of the window exactly the chosen channels are open. A gradient that is not finite
    leaves what is remembered and all x as they are, and so does an x that is not finite.

    Args:
        method: of the run.

    Attributes:
        state: what the method remembers.
        has_penalty: it may have one.
        has_factors: it may have some.
    """

    def __init__(self, method: PruningMethod) -> None:
        self.method = method
        self.state: MethodState = {}
        kind = type(method)  # what a method leaves as it is costs nothing
        self.has_penalty = kind.penalty is not PruningMethod.penalty
        self.has_factors = kind.factors is not PruningMethod.factors

    def begin(self, context: StepContext) -> None:
        """Check the method, and let it remember nothing yet.

        Args:
            context: of the network with its gates, before the first step.

        Raises:
            GDPError: the method breaks its contract; gates that have not acted yet are taken away.
        """
        before = Snapshot(context.gates.model)
        try:
            with torch.no_grad():
                check_method(self.method, context)
        except GDPError:
            before.restore()
            if not context.gates.acting:
                context.gates.withdraw()
            raise
        self.state = self.method.init_state(len(context.gate_param))
        context.gates.view.straight_through = self.method.regrows

    def to(self, device: torch.device) -> None:
        """Bring what is remembered to the device where the weights are.

        Args:
            device: of the weights.
        """
        self.state = {name: tensor.to(device) for name, tensor in self.state.items()}

    def learns(self, context: StepContext, from_training: bool) -> bool:
        """Return whether gates learn at this step from a batch of this kind.

        Args:
            context: where the run is.
            from_training: it is one that the weights are trained on.
        """
        batches, window = self.method.learns_from, context.window
        inside = window.start <= context.steps < window.end and context.keep_mask is not None
        if batches is None or not inside or (batches.source == "train") != from_training:
            return False
        return context.steps % batches.every == 0

    def update(self, gradient: Tensor, context: StepContext) -> None:
        """Tell the method of the gradient of a training batch.

        Args:
            gradient: `g_c * dL/dg_c` of every channel, shape (channels of all groups,).
            context: where the run is.
        """
        with unchanged(self.method, "update", context):
            found = self.method.update(self.state, gradient, context)
        check_state(self.method, "update", found, self.state)
        self.state = _if_finite(gradient, found, self.state)

    def learn(self, gradient: Tensor, context: StepContext) -> None:
        """Let the method move gates by the gradient of a batch.

        Args:
            gradient: `g_c * dL/dg_c` of every channel, shape (channels of all groups,).
            context: where the run is.
        """
        with unchanged(self.method, "learn", context):
            found = self.method.learn(self.state, gradient, context)
        check_learned(self.method, found, self.state, len(gradient))
        self.state = _if_finite(gradient, found[0], self.state)
        gate_param = torch.where(gradient.isfinite().all(), found[1].to(context.gate_param), context.gate_param)
        context.gates.set(broadcast_from_rank_zero(self._kept("learn", gate_param, context)))

    def observe(self, seen: Seen, context: StepContext) -> None:
        """Show the method a pass of the network; what it remembers is averaged over all processes.

        Args:
            seen: activations, output and labels.
            context: where the run is.
        """
        with unchanged(self.method, "observe", context):
            state = self.method.observe(self.state, seen, context)
        check_state(self.method, "observe", state, self.state)
        self.state = {name: mean_of_all_ranks(t) if t.is_floating_point() else t for name, t in state.items()}

    def forward_loss(self, seen: Seen, context: StepContext) -> Tensor | None:
        """Return what the method adds to the loss in a pass of the network; None if nothing.

        Args:
            seen: activations and output with their graphs.
            context: where the run is.

        Raises:
            GDPError: it is no scalar.
        """
        loss = self.method.forward_loss(self.state, seen, context)
        check_scalar(self.method, "forward_loss", loss)
        return loss

    def importance(self, context: StepContext) -> Tensor:
        """Return the importance of every channel, shape (channels of all groups,), on the CPU.

        Args:
            context: where the run is.

        Raises:
            GDPError: it has another shape, or numbers that are not finite or negative.
        """
        with unchanged(self.method, "importance", context):
            found = self.method.importance(self.state, context)
        check_importance(self.method, found, len(context.gate_param))
        return found.detach().cpu()

    def moved(self, context: StepContext) -> Tensor:
        """Return the x of every gate after one more step, shape (channels of all groups,).

        Args:
            context: where the run is.
        """
        with unchanged(self.method, "step", context):
            found = self.method.step(self.state, context)
        return self._kept("step", found, context)

    def finalized(self, context: StepContext) -> Tensor:
        """Return the x of every gate at the end of the window, shape (channels of all groups,).

        Args:
            context: where the run is.

        Raises:
            GDPError: a gate of a channel that stays would not be open.
        """
        with unchanged(self.method, "finalize", context):
            found = self.method.finalize(self.state, context)
        check_finalized(self.method, found, context)
        context.gates.view.straight_through = False
        return torch.where(context.chosen, found.to(context.gate_param), 0.0)

    def add_penalty(self, context: StepContext, scale: float, trained: Container[int] | None) -> None:
        """Add the gradient of the method's penalty, if it has one, to those of the parameters.

        Args:
            context: where the run is.
            scale: what the penalty is multiplied with, as the loss is.
            trained: ids of the parameters that are about to be stepped; None for all of the network.
        """
        if self.has_penalty:
            add_penalty(self.method, self.state, context, scale, trained)

    def multiply_weights(self, context: StepContext, finite: Tensor) -> None:
        """Multiply the parameters of channels with the method's factors, if it has some.

        Args:
            context: where the run is.
            finite: whether loss and gradients of this step were finite, bool of shape ().
        """
        if self.has_factors:
            multiply_weights(self.method, self.state, context, finite)

    def _kept(self, member: str, found: Tensor, context: StepContext) -> Tensor:
        """Return x with the chosen channels open, and those closed that can't come back.

        Args:
            member: of the method that has returned x.
            found: x of every gate as the method has it, shape (channels of all groups,).
            context: where the run is.

        Raises:
            GDPError: it has another shape.
        """
        before = context.gate_param
        check_vector(self.method, member, found, len(before))
        gate_param = torch.where(found.isfinite(), found.to(before), before).clamp(0.0, 1.0)
        may_be_open = context.is_there if self.method.regrows else context.is_open
        if context.keep_mask is not None:
            gate_param = torch.where(context.keep_mask, gate_param.clamp_min(SMALLEST_OPEN), gate_param)
        return torch.where(may_be_open, gate_param, 0.0)


def _if_finite(gradient: Tensor, found: MethodState, before: MethodState) -> MethodState:
    """Return what is remembered after a gradient, or, where that is not finite, what was remembered before it.

    Args:
        gradient: that the method was told of.
        found: what it remembers now.
        before: what it remembered before; tensors that had another shape then are those of now.
    """
    finite = gradient.isfinite().all()
    return {
        name: torch.where(finite, tensor.to(finite.device), before[name].to(finite.device))
        if tensor.shape == before[name].shape
        else tensor
        for name, tensor in found.items()
    }
