"""Count the steps of a run: how many are still to come, and whether a batch ended with one."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.pruning import Pruner


def run_length(trainer: Any) -> list[float]:
    """Return what the length of a run depends on: epochs, steps, batches per epoch, batches per step.

    Args:
        trainer: of either family; no limit is infinity.
    """
    epochs = trainer.max_epochs if trainer.max_epochs > 0 else math.inf
    steps = trainer.max_steps if trainer.max_steps > 0 else math.inf
    return [epochs, steps, trainer.num_training_batches, trainer.accumulate_grad_batches]


def position(trainer: Any) -> list[int]:
    """Return where a run is: steps of all optimizers, and batches.

    Args:
        trainer: of either family.
    """
    return [trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx + 1]


def steps_left(trainer: Any, done: int, began: list[int]) -> int:
    """Return how many steps of the pruner are still to come, at the pace of now.

    With manual optimization only the past can tell how many batches, and how many steps of all optimizers, make one of
    them.

    Args:
        trainer: of either family.
        done: steps of the pruner so far.
        began: the `position` where they began.

    Raises:
        GDPError: the run has no end.
    """
    epochs, steps, batches, _ = run_length(trainer)
    by_steps = steps - trainer.global_step
    if trainer.lightning_module.automatic_optimization:
        left = min(by_steps, _steps_of_epochs(trainer) if math.isfinite(epochs * batches) else math.inf)
    else:
        stepped, seen = position(trainer)
        per_batch = done / max(1, seen - began[1]) if done else 1.0
        per_step = done / max(1, stepped - began[0]) if done else 1.0
        left = min((epochs * batches - seen) * per_batch, by_steps * per_step)
    if math.isinf(left) or math.isnan(left):
        raise GDPError(
            "gdp closes channels along the run, so it has to know how long the run is, and this Trainer has no end. "
            "Set max_steps, or max_epochs with limit_train_batches."
        )
    return max(0, round(float(left)))


def _steps_of_epochs(trainer: Any) -> int:
    """Return the optimizer steps in the epochs that are left, with gradients accumulated as Trainer or callback say.

    Args:
        trainer: of either family, with a number of epochs and of batches.
    """
    left = [trainer.num_training_batches] * (trainer.max_epochs - trainer.current_epoch)
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if left and getattr(trainer.fit_loop, "restarted_mid_epoch", False) and not progress.is_last_batch:
        left[0] -= progress.current.processed
    name = "get_accumulate_grad_batches"
    factors = [getattr(callback, name) for callback in trainer.callbacks if hasattr(callback, name)]
    factor = factors[0] if factors else lambda epoch: trainer.accumulate_grad_batches
    return sum(math.ceil(batches / factor(trainer.current_epoch + i)) for i, batches in enumerate(left))


class StepCounter:
    """Tell a pruner of the steps of a Lightning run."""

    def __init__(self) -> None:
        self._length: list[float] = []  # of the run whose length the pruner knows
        self._began = [0, 0]  # where the run was when pruning began
        self._global_step = 0  # after the last step the pruner was told of
        self._trained = False  # an optimizer has stepped that trains the network
        self._loss: Tensor | None = None  # sum since the last step
        self._batches = 0  # whose losses they were
        self._scale = 1.0  # of the gradient scaler

    def start(self, trainer: Any, pruner: Pruner) -> bool:
        """Tell the pruner how long the run is; if it is longer or shorter now than it was to be, the window moves.

        Args:
            trainer: of either family, when training starts or goes on.
            pruner: of the run.

        Returns:
            Whether a step was made up for, which a checkpoint of another callback was too early for.
        """
        fresh, resumed_at, known = pruner.steps == 0, self._global_step, self._length
        owed = self._trained or trainer.lightning_module.automatic_optimization
        self._length, self._global_step = run_length(trainer), trainer.global_step
        self._trained, self._loss, self._batches, self._scale = False, None, 0, gradient_scale(trainer)
        if fresh:
            self._began = position(trainer)
        if fresh or self._length != known:
            pruner.total_steps = max(1, pruner.steps + steps_left(trainer, pruner.steps, self._began))
        late = not fresh and owed and resumed_at < self._global_step
        if late:
            pruner.step()  # another callback has saved between the optimizer's step and the gates'
        return late

    def add_loss(self, loss: Tensor) -> None:
        """Add the loss of a batch to those since the last step.

        Args:
            loss: of any shape.
        """
        total = loss.detach().sum()
        self._loss, self._batches = total if self._loss is None else self._loss + total, self._batches + 1

    def before_optimizer_step(self, trainer: Any, optimizer: Optimizer, pruner: Pruner) -> None:
        """Let the pruner read gradients, if the optimizer that is about to step trains the network.

        Args:
            trainer: of either family.
            optimizer: that is about to step.
            pruner: of the run.
        """
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        reads = any(id(reader.weight) in trained for reader in pruner.gates.readers)
        if reads or any(id(p) in trained for p in pruner.gates.model.parameters()):
            self._trained = self._trained or reads
            loss, scale = self._loss if reads else None, scale_of_gradients(trainer, optimizer)
            pruner.watch(loss, scale, trained, self._share(trainer))
            self._loss = None if reads else self._loss

    def _share(self, trainer: Any) -> float:
        """Return what part of the batches that a step accumulates was there, as an epoch may end before the last one.

        Lightning divides the loss of every batch by the whole number.

        Args:
            trainer: of either family; with manual optimization it takes no means over batches.
        """
        automatic = trainer.lightning_module.automatic_optimization
        return min(1.0, self._batches / trainer.accumulate_grad_batches) if automatic and self._batches else 1.0

    def step(self, trainer: Any, pruner: Pruner) -> bool:
        """Let the pruner step if the batch that has ended was a step of it, and return whether it was.

        With gradient accumulation most batches end without one; several optimizers count several steps per batch.

        Args:
            trainer: of either family.
            pruner: of the run.
        """
        automatic = trainer.lightning_module.automatic_optimization
        of_others = trainer.global_step == self._global_step or not (self._trained or automatic)
        self._global_step, self._trained = trainer.global_step, False
        if of_others:
            return False
        self._batches = 0
        if not automatic and pruner.steps < pruner.window.start:
            pruner.total_steps = pruner.steps + 1 + steps_left(trainer, pruner.steps + 1, self._began)
        scale = gradient_scale(trainer)
        pruner.step(skipped=scale < self._scale)
        self._scale = scale
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        place = {"began": self._began, "global_step": self._global_step, "trained": self._trained}
        return {"length": self._length, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: from `state_dict`.
        """
        self._length, self._began = list(state["length"]), list(state["began"])
        self._global_step, self._trained = state["global_step"], state["trained"]


def gradient_scale(trainer: Any) -> float:
    """Return the scale of the gradient scaler; it falls when a step was skipped.

    Args:
        trainer: of either family; without a scaler it is 1.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def scale_of_gradients(trainer: Any, optimizer: Optimizer) -> float:
    """Return what gradients are multiplied with before an optimizer steps; fused ones undo the scaling by themselves.

    Args:
        trainer: of either family.
        optimizer: that is about to step.
    """
    return gradient_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
