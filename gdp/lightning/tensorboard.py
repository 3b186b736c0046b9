"""What TensorBoard shows of the gates. Loggers are known by their attributes only."""

from __future__ import annotations

from typing import Any

from gdp.pruning import Pruner


class TensorBoardWriter:
    """Writes the distribution of the gates' values, and what is left of every group, to loggers that take histograms.

    As often as `Trainer(log_every_n_steps=...)` says, at steps at which channels are chosen.
    """

    def __init__(self) -> None:
        self._written = 0  # the step of the pruner that was written last

    def write(self, trainer: Any, pruner: Pruner, place: str) -> None:
        """Write how the gates are now, under `place`, if it is time to."""
        steps = pruner.gates.history.steps
        now = bool(steps) and steps[-1] == pruner.steps and trainer.log_every_n_steps > 0
        if not now or (pruner.steps - self._written < trainer.log_every_n_steps and not pruner.done):
            return
        boards: list[Any] = [getattr(logger, "experiment", None) for logger in trainer.loggers]
        self._written = pruner.steps
        for board in filter(lambda board: hasattr(board, "add_histogram"), boards):
            board.add_histogram(f"{place}/gates", pruner.gates.values, trainer.global_step)
            for group, opened in zip(pruner.graph.groups, pruner.open_counts.tolist(), strict=True):
                board.add_scalar(f"{place}/kept/{group.name}", opened / group.size, trainer.global_step)
