"""RunRecord: what a run has come to, what it says of that in checkpoints, and what it takes over from them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gdp.gates import Gates
from gdp.lightning.averaging import find_averages
from gdp.lightning.network import find_network
from gdp.lightning.options import PruningOptions
from gdp.lightning.restore import prepare_for_evaluation, restore_run
from gdp.lightning.step_counter import StepCounter
from gdp.pruning import Pruner
from gdp.report import Report, report_of
from gdp.saving import CheckpointState, gated_state, pruned_state


class RunRecord:
    """Remember what a run has come to, write it into checkpoints, and make runs and networks fit those that are loaded.

    Args:
        options: what the user asked for.
        key: under which the callback's state lies in checkpoints.
        counter: of the steps of the run; it goes into checkpoints, and is set by those that are resumed from.

    Attributes:
        report: the record of the removal, once there was one.
    """

    def __init__(self, options: PruningOptions, key: str, counter: StepCounter) -> None:
        self.report: Report | None = None
        self._options = options
        self._key = key
        self._counter = counter
        self._closed: Tensor | None = None  # channels that were cut in all
        self._after: CheckpointState | None = None  # what checkpoints say after the cut

    def is_known(self, network: nn.Module) -> bool:
        """Return whether the report is about the network."""
        return self.report is not None and report_of(network) is self.report

    def is_small(self, network: nn.Module) -> bool:
        """Return whether the run has pruned the network."""
        return self.is_known(network) and self.report is not None and self.report.failure is None

    def clear(self) -> None:
        """Forget what the last run has come to, as another one begins."""
        self.report, self._closed, self._after = None, None, None

    def set_removal(self, module: nn.Module, gates: Gates, report: Report) -> None:
        """Note that the network was made plain, and what checkpoints say from now on.

        Args:
            module: the LightningModule.
            gates: that the network had.
            report: the record of the removal.
        """
        self.report = report
        self._closed = gates.removed if report.failure else (gates.gate_param == 0).cpu()
        self._after = pruned_state(module, self._network(module)[0], gates, report)

    def state(self, module: nn.Module, pruner: Pruner | None) -> CheckpointState | None:
        """Return what a checkpoint has to say now; None if there is nothing.

        Args:
            module: the LightningModule.
            pruner: of its network, while it has gates.
        """
        if pruner is None and self._after is None:
            return None
        name, network = self._network(module)
        if pruner is not None:
            return gated_state(module, name, pruner.gates, pruner.state_dict(), self._counter.state_dict())
        return self._after if self.is_known(network) else None

    def restore(self, module: nn.Module, checkpoint: dict[str, Any], pruner: Pruner | None) -> bool:
        """Take over the run of a checkpoint whose weights Lightning is about to load.

        Args:
            module: the LightningModule.
            checkpoint: of Lightning.
            pruner: of the network; None if it is small already.

        Returns:
            Whether the run is over: the checkpoint was written after the cut, and the network is as small as there.

        Raises:
            GDPError: the checkpoint does not belong to this run.
        """
        saved = self._saved_in(checkpoint)
        report = restore_run(checkpoint, saved, module, self._network(module)[1], pruner)
        if report is not None:
            self.report, self._closed, self._after = report, None, saved
        elif saved is not None and saved.counter is not None:
            self._counter.load_state_dict(saved.counter)
        return report is not None

    def prepare_for_evaluation(self, trainer: Any, module: nn.Module, checkpoint: dict[str, Any]) -> None:
        """Make network and checkpoint fit each other for an evaluation.

        Args:
            trainer: of either family.
            module: the LightningModule.
            checkpoint: of Lightning; it is about to be loaded.

        Raises:
            GDPError: they can't be made to fit.
        """
        name, network = self._network(module)
        closed = self._closed if self.is_known(network) else None
        copies, saved = find_averages(module, name, network, trainer.callbacks), self._saved_in(checkpoint)
        prepare_for_evaluation(checkpoint, saved, module, network, copies, closed, str(trainer.ckpt_path))

    def _saved_in(self, checkpoint: dict[str, Any]) -> CheckpointState | None:
        """Return what a callback of this kind has left in a checkpoint."""
        return CheckpointState.from_dict(checkpoint.get("callbacks", {}).get(self._key))

    def _network(self, module: nn.Module) -> tuple[str, nn.Module]:
        return find_network(module, self._options.module)
