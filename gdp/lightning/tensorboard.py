"""Gates in TensorBoard: their distribution, and what is left of every group."""

from __future__ import annotations

from typing import Any

from gdp.pruning import Pruner


class TensorBoardWriter:
    """Write the distribution of the gates' values, and what is left of every group, to loggers that take histograms.

    It writes as often as `Trainer(log_every_n_steps=...)` says, at steps at which channels are chosen.
    """

    def __init__(self) -> None:
        self._written = 0  # the step of the pruner that was written last

    def write(self, trainer: Any, pruner: Pruner, prefix: str) -> None:
        """Write how the gates are now, if it is time to.

        Args:
            trainer: of either family.
            pruner: of the run.
            prefix: of the names in the logger.
        """
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
