"""How far a run has come, and whether a step was one. Lightning is known by its attributes only."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gdp.errors import GDPError
from gdp.pruner import Pruner


class Progress(NamedTuple):
    """What a run has done: steps of all optimizers, as `trainer.global_step` counts them, and batches."""

    steps: int
    batches: int

    @classmethod
    def of(cls, trainer: Any) -> Progress:
        """Up to now."""
        return cls(trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx + 1)


def total_steps(trainer: Any, began: Progress, done: int) -> int:
    """Optimizer steps of the run, of which `done` are over, since pruning began.

    With manual optimization only the past can tell how many batches, and how many steps of all optimizers, make one of
    these steps.

    Raises:
        GDPError: the run has no end.
    """
    batches = trainer.num_training_batches * (trainer.max_epochs if trainer.max_epochs > 0 else math.inf)
    steps = trainer.max_steps if trainer.max_steps > 0 else math.inf
    if trainer.lightning_module.automatic_optimization:
        total = min(steps, _accumulated(trainer, batches)) - began.steps
    else:
        now = Progress.of(trainer)
        per_batch = done / max(1, now.batches - began.batches) if done else 1.0
        per_step = done / max(1, now.steps - began.steps) if done else 1.0
        total = min((batches - began.batches) * per_batch, (steps - began.steps) * per_step)
    if math.isinf(total):
        raise GDPError(
            "gdp closes channels along the run, so it has to know how long the run is, and this Trainer has no end. "
            "Set max_steps, or max_epochs with limit_train_batches."
        )
    return max(1, round(total))


def _accumulated(trainer: Any, batches: float) -> float:
    """Optimizer steps that so many batches make."""
    if math.isinf(batches):
        return batches
    per_epoch = trainer.num_training_batches
    for callback in trainer.callbacks:
        if hasattr(callback, "get_accumulate_grad_batches"):
            epochs = range(trainer.max_epochs)
            return sum(math.ceil(per_epoch / callback.get_accumulate_grad_batches(epoch)) for epoch in epochs)
    return math.ceil(per_epoch / trainer.accumulate_grad_batches) * trainer.max_epochs


class Clock:
    """Tells a pruner of the steps of a Lightning run."""

    def __init__(self) -> None:
        self._began = Progress(0, 0)  # where the run was when pruning began
        self._global_step = 0  # after the last step the pruner was told of
        self._loss: Tensor | None = None  # sum since then
        self._scale = 1.0  # of the gradient scaler

    def start(self, trainer: Any, pruner: Pruner) -> None:
        """Training starts, or goes on."""
        fresh, resumed_at = pruner.steps == 0, self._global_step
        self._global_step, self._loss, self._scale = trainer.global_step, None, _scale(trainer)
        if fresh:
            self._began = Progress.of(trainer)
        if fresh or trainer.lightning_module.automatic_optimization:
            pruner.total_steps = total_steps(trainer, self._began, pruner.steps)
        if not fresh and resumed_at < self._global_step:
            pruner.step()  # another callback has saved between the optimizer's step and the gates'

    def see(self, loss: Tensor) -> None:
        """The loss of a batch."""
        total = loss.detach().sum()
        self._loss = total if self._loss is None else self._loss + total

    def watch(self, trainer: Any, optimizer: Optimizer, pruner: Pruner) -> None:
        """An optimizer is about to step."""
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not pruner.done and any(id(reader.weight) in trained for reader in pruner.gates.readers):
            scaled = getattr(optimizer, "_step_supports_amp_scaling", False)  # fused optimizers unscale by themselves
            pruner.watch(self._loss, _scale(trainer) if scaled else 1.0)
            self._loss = None

    def step(self, trainer: Any, pruner: Pruner) -> bool:
        """A batch has ended; return whether that was a step of the pruner.

        With gradient accumulation most batches end without one; several optimizers count several steps per batch.
        """
        if trainer.global_step == self._global_step:
            return False
        self._global_step = trainer.global_step
        if not trainer.lightning_module.automatic_optimization and pruner.steps < pruner.window.start:
            pruner.total_steps = total_steps(trainer, self._began, pruner.steps + 1)
        scale = _scale(trainer)
        pruner.step(skipped=scale < self._scale)
        self._scale = scale
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"began": list(self._began), "global_step": self._global_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._began, self._global_step = Progress(*state["began"]), state["global_step"]


def _scale(trainer: Any) -> float:
    """The scale of the gradient scaler; it falls when a step was skipped."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def refuse_optimizers(trainer: Any) -> None:
    """Say which optimizers don't go with gates.

    Raises:
        GDPError: there is one of them.
    """
    if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        raise GDPError(
            "LBFGS relies on a loss that stays the same from step to step, but closing gates change it. Use an "
            "optimizer of single steps, such as SGD or AdamW."
        )


def is_finetuned(trainer: Any) -> bool:
    """Whether a callback of the run freezes layers for a while (BackboneFinetuning and other BaseFinetuning)."""
    return any(cls.__name__ == "BaseFinetuning" for c in trainer.callbacks for cls in type(c).__mro__)
