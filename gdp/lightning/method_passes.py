"""What a method does with passes of the network in a Lightning run: it observes batches, and adds a loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.lightning.module_hooks import once_seen
from gdp.lightning.network import is_compiled_around
from gdp.lightning.protected_step import first_pass
from gdp.methods import PruningMethod
from gdp.pruning import Pruner, check_observation, forward_loss_added


def check_observable(module: Any, method: PruningMethod) -> None:
    """Check that `training_step` can be run beside training, if the method observes batches.

    Args:
        module: the LightningModule.
        method: of the run.

    Raises:
        GDPError: the module optimizes by itself.
    """
    if method.observed_batches and not module.automatic_optimization:
        raise GDPError(
            f"{type(method).__name__} observes batches in {type(module).__name__}.training_step beside training, but "
            "with manual optimization that trains the weights as well. Use method='polar', or automatic optimization."
        )


class MethodPasses:
    """Show a method the batches that it observes, and add its loss to passes of the network in training steps.

    Both begin when all hooks have seen a batch; a method that does neither costs nothing.
    """

    def __init__(self) -> None:
        self._batch = ExitStack()  # what is in place during one batch
        self._checked = False
        self._shown: list[str] = []  # layers that have shown in this batch what they read

    def start_batch(self, trainer: Any, module: Any, pruner: Pruner) -> None:
        """Get ready for a batch that is about to be trained on.

        Args:
            trainer: of either family.
            module: the LightningModule.
            pruner: of the run.
        """
        self.end_batch()
        method = pruner.method
        looks = not self._checked and (method.observed_batches > 0 or method.needs_labels)
        if not pruner.done and (method.adds_loss or looks or pruner.wants_observation):
            self._batch.callback(once_seen(module, partial(self._begin, trainer, module, pruner)))

    def _begin(self, trainer: Any, module: Any, pruner: Pruner, batch: Any, batch_idx: int) -> None:
        """Let the method observe a batch, if it is due, and add its loss from now on.

        Args:
            trainer: of either family.
            module: the LightningModule.
            pruner: of the run.
            batch: as `training_step` is about to get it.
            batch_idx: its number.

        Raises:
            GDPError: the method would not see what it needs; this is found out on the first batch.
        """
        method, labels, wanted = pruner.method, _labels(batch), pruner.wants_observation
        check, self._checked = not self._checked, True
        if check and method.needs_labels and labels is None:
            raise _no_labels(method, batch)
        if check and method.adds_loss and is_compiled_around(module, pruner.gates.model):
            raise _nothing_shown(pruner)
        if wanted or (check and method.observed_batches):
            seen = first_pass(trainer, module, pruner.gates, batch, batch_idx, labels)
            if check:
                check_observation(pruner, seen)
            complete = seen is not None and not (method.needs_labels and seen.labels is None)
            if trainer.strategy.reduce_boolean_decision(complete) and wanted and seen is not None:
                pruner.observe(seen)
        if method.adds_loss:
            self._shown = self._batch.enter_context(forward_loss_added(pruner, _scaled_as_losses(trainer, module)))

    def check_loss(self, pruner: Pruner) -> None:
        """Check before the first optimizer step that the method's loss could be added.

        Args:
            pruner: of the run.

        Raises:
            GDPError: no pass has shown what gated layers read.
        """
        if pruner.steps == 0 and pruner.method.adds_loss and not self._shown:
            raise _nothing_shown(pruner)

    def end_batch(self) -> None:
        """Leave nothing in place behind a batch."""
        self._batch.close()
        self._shown = []


def _labels(batch: Any) -> Tensor | None:
    """Return the classes of a batch that is a pair of inputs and classes, shape (samples,), int64; else None.

    Args:
        batch: as `training_step` gets it.
    """
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        return None
    inputs, labels = batch
    if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor) or labels.dim() != 1 or not inputs.dim():
        return None
    return labels.long() if labels.dtype in (torch.int64, torch.int32) and len(labels) == len(inputs) else None


def _no_labels(method: PruningMethod, batch: Any) -> GDPError:
    """Return the error that a method needs labels and a batch has none."""
    parts = ", ".join(
        f"{part.dtype} of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
        for part in (batch if isinstance(batch, list | tuple) else [batch])
    )
    return GDPError(
        f"{type(method).__name__} needs the classes of samples: batches that are pairs (inputs, classes), classes "
        f"being integers of shape (samples,). The first training batch is a {type(batch).__name__} ({parts}). Let the "
        "data set give pairs, or use a method that needs no classes, such as method='polar'."
    )


def _nothing_shown(pruner: Pruner) -> GDPError:
    """Return the error that passes of the network do not show what its layers read."""
    network = type(pruner.gates.model).__name__
    return GDPError(
        f"{type(pruner.method).__name__} adds a loss of what the layers of {network} read, but no pass of {network} in "
        "the first training step shows that: it is compiled, or training_step does not call it as a whole. Train it "
        "without torch.compile, call it in training_step, or use a method that adds no loss, such as method='polar'."
    )


def _scaled_as_losses(trainer: Any, module: Any) -> Callable[[Tensor], Tensor]:
    """Return what multiplies a loss as Lightning multiplies that of `training_step` before its backward pass.

    Args:
        trainer: of either family.
        module: the LightningModule; with manual optimization it takes no means over batches.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    batches = trainer.accumulate_grad_batches if module.automatic_optimization else 1

    def scaled(loss: Tensor) -> Tensor:
        """Return the loss, divided and scaled in the order in which Lightning does it."""
        mean = loss / batches
        return mean if scaler is None else scaler.scale(mean)

    return scaled
