"""What loggers are told of a pruning: numbers at every step, and the gates of every group in TensorBoard."""

from __future__ import annotations

from typing import Any

from gdp.lightning.options import PruningOptions
from gdp.pruning import Pruner


class ProgressLog:
    """Log how far a pruning is; to loggers that take histograms, also the gates, and what is left of every group.

    Gates are written as often as `Trainer(log_every_n_steps=...)` says, at steps at which channels are chosen.

    Args:
        options: of the run.
    """

    def __init__(self, options: PruningOptions) -> None:
        self._options = options
        self._written = 0  # the step of the pruner that was written last

    def write(self, trainer: Any, module: Any, pruner: Pruner) -> None:
        """Log how the pruning is now; to be called once per step.

        Args:
            trainer: of either family.
            module: the LightningModule.
            pruner: of the run.
        """
        prefix = self._prefix(trainer)
        found = {"flops": pruner.remaining, "allowed": pruner.allowed, "lambda": pruner.lagrange_multiplier}
        found["open_channels"] = float(pruner.open_counts.sum())
        module.log_dict({f"{prefix}/{name}": value for name, value in found.items()}, prog_bar=True)
        steps = pruner.gates.history.steps
        now = bool(steps) and steps[-1] == pruner.steps and trainer.log_every_n_steps > 0
        if not now or (pruner.steps - self._written < trainer.log_every_n_steps and not pruner.done):
            return
        self._written = pruner.steps
        experiments: list[Any] = [getattr(logger, "experiment", None) for logger in trainer.loggers]
        for board in (found for found in experiments if hasattr(found, "add_histogram")):
            board.add_histogram(f"{prefix}/gates", pruner.gates.values, trainer.global_step)
            for group, count in zip(pruner.graph.groups, pruner.open_counts.tolist(), strict=True):
                board.add_scalar(f"{prefix}/kept/{group.name}", count / group.size, trainer.global_step)

    def _prefix(self, trainer: Any) -> str:
        """Return under which name loggers show this pruning, which may be one of several."""
        found = [getattr(getattr(callback, "run", None), "options", None) for callback in trainer.callbacks]
        several = sum(isinstance(options, PruningOptions) for options in found) > 1
        return f"gdp/{self._options.module}" if several and self._options.module else "gdp"
