"""PruningRun: one network's way through fits, checkpoints and evaluations. `GDPCallback` is its hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.lightning.averaging import track_averages
from gdp.lightning.compat import forget_loaded_checkpoint, rank_zero_info, rank_zero_warn, trains_in_this_process
from gdp.lightning.cut_in_training import check_cuts, cut_during_training, is_time_to_cut
from gdp.lightning.held_out import HeldOutBatches, make_held_out, refusal_first
from gdp.lightning.lifecycle import abandon, build_pruner, finalize, is_in, never_fatal, restart
from gdp.lightning.method_passes import MethodPasses, check_observable
from gdp.lightning.module_hooks import extend_once
from gdp.lightning.network import find_network
from gdp.lightning.options import PruningOptions
from gdp.lightning.progress_log import ProgressLog
from gdp.lightning.run_record import RunRecord
from gdp.lightning.step_counter import StepCounter
from gdp.lightning.thawed import ThawedLayers
from gdp.lightning.training_trial import TrainingTrial
from gdp.lightning.unsupported import check_no_lbfgs, check_setup
from gdp.pruning import Pruner
from gdp.report import Report
from gdp.saving import CheckpointState
from gdp.utils import check_intact


class PruningRun:
    """Carry the pruning of one network through the fits, checkpoints and evaluations of Trainers.

    In all methods, `trainer` is a Trainer of either family, and `module` the LightningModule that it runs.

    Args:
        options: what the user asked for.
        key: under which the callback's state lies in checkpoints.

    Attributes:
        pruner: of the network, while it has gates.
    """

    def __init__(self, options: PruningOptions, key: str) -> None:
        self.options = options
        self.pruner: Pruner | None = None
        self._counter = StepCounter()
        self._record = RunRecord(options, key, self._counter)
        self._held_out: HeldOutBatches | None = None
        self._trial = TrainingTrial()
        self._passes = MethodPasses()
        self._log = ProgressLog(options)
        self._cuts_wait = False  # for the end of training, since cuts in training are not possible
        self._extended_hooks = ExitStack()  # hooks of the module; closing it restores them
        self._thawed = ThawedLayers()
        self._data = ExitStack()  # the same for the source of the training batches

    @property
    def report(self) -> Report | None:
        """The record of the removal, once `fit` has returned."""
        return self._record.report

    # Gates go in when the module is complete, after its own `setup` and `configure_model`, and before a checkpoint is
    # restored and the strategy wraps it; what was cut by then goes before the weights are loaded. Lightning calls no
    # callback at these moments, so hooks of the module are extended for once; `configure_model` not before other
    # callbacks have had their `setup`, as some ask whether the module has one.
    def prepare(self, trainer: Any, module: Any, stage: str) -> None:
        """Get ready for a stage of a Trainer.

        Args:
            trainer: of either family.
            module: the LightningModule.
            stage: "fit", "validate", "test" or "predict".

        Raises:
            GDPError: the Trainer does what does not go with gdp.
        """

        def setup(original: Callable[..., None], stage: str) -> None:
            original(stage=stage)
            self._extended_hooks.callback(extend_once(module, configure_model))

        def configure_model(original: Callable[[], None]) -> None:
            original()
            with torch.device("cpu"):  # Lightning calls this with the accelerator as the default device
                self._insert(trainer, module)

        def on_load_checkpoint(original: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
            load = self._restore if stage == "fit" else self._record.prepare_for_evaluation
            load(trainer, module, checkpoint)
            original(checkpoint)

        self._extended_hooks.callback(extend_once(module, on_load_checkpoint))
        if stage == "fit":
            check_setup(trainer)
            if self.pruner is not None and not is_in(module, self.pruner):
                abandon(self.pruner)
                self.pruner = None
            self._give_up()  # what an interrupted fit left
            small = any(self._record.is_small(m) for m in module.modules())
            self._held_out = None if small else make_held_out(trainer, module, self.options.pruning_method)
            check_observable(module, self.options.pruning_method)
            self._trial, self._passes = TrainingTrial(), MethodPasses()
            self._cuts_wait = not trains_in_this_process(trainer)
            self._extended_hooks.callback(extend_once(module, setup))

    def _insert(self, trainer: Any, module: nn.Module) -> None:
        """Put gates into the network, unless it is small already or has some from an interrupted run."""
        name, network = find_network(module, self.options.module)
        if self._record.is_small(network):
            rank_zero_info("gdp: this network is pruned already; it is trained on as it is.")
            return
        if self.pruner is not None and self.pruner.gates.model is network:
            restart(self.pruner)
            return
        if self._record.is_known(network):
            rank_zero_warn("gdp: the last run could not cut this network; pruning begins anew, from what it costs now.")
        self._record.clear()
        self._log = ProgressLog(self.options)
        with refusal_first(self._held_out):
            self.pruner = build_pruner(trainer, module, name, network, self.options, self._data)

    def start_fit(self, trainer: Any, module: nn.Module) -> None:
        """Let loaded gates act; network, optimizers and averages are there now.

        Raises:
            GDPError: the run uses LBFGS.
        """
        self._extended_hooks.close()
        self.track_averages(trainer, module)
        if self.pruner is not None:
            check_no_lbfgs(trainer)
            self.pruner.resume()

    def start_training(self, trainer: Any, module: nn.Module) -> None:
        """Find out how long the run is, and make up for a step that a checkpoint was too early for.

        Raises:
            GDPError: the run has no end, held-out data can't be had, or cuts in training are not possible.
        """
        if self.pruner is None:
            return
        late = self._counter.start(trainer, self.pruner)
        if self._held_out is not None:
            self._held_out.check(trainer)
            if late:
                self._held_out.step(trainer, module, self.pruner)
        self._check_cuts(trainer, module, self.pruner)

    def start_batch(self, trainer: Any, module: Any) -> None:
        """Let `training_step` be tried on the first batch, and let the method see what it looks at in passes.

        Raises:
            GDPError: `training_step` reads too much beside `forward`, or does not show the method what it needs.
        """
        if self.pruner is not None:
            self._trial.prepare(trainer, module, self.pruner, self._extended_hooks)
            self._passes.start_batch(trainer, module, self.pruner)

    def add_loss(self, loss: Tensor) -> None:
        """Note the loss of a batch."""
        if self.pruner is not None:
            self._counter.add_loss(loss)

    def before_optimizer_step(self, trainer: Any, optimizer: Any) -> None:
        """Read the gates' gradients; they are reduced, accumulated and not yet clipped."""
        if self.pruner is not None:
            self._passes.check_loss(self.pruner)
            self._trial.check_unread(self.pruner, self.options.shrink)
            self._counter.before_optimizer_step(trainer, optimizer, self.pruner)

    def end_batch(self, trainer: Any, module: Any, outputs: Any) -> None:
        """Move the gates if the batch ended with an optimizer step, log, and cut what is closed if it is time to.

        Args:
            trainer: of either family.
            module: the LightningModule.
            outputs: of `training_step`.

        Raises:
            GDPError: the method needs a loss and got none, or cuts in training are not possible.
        """
        self._passes.end_batch()
        if self.pruner is None:
            return
        stepped = self._counter.step(trainer, self.pruner)
        if stepped:
            if self._held_out is not None:
                with self._given_up_if_refused():
                    self._held_out.check_loss(module, self.pruner, outputs)
                self._held_out.step(trainer, module, self.pruner)
            self._log.write(trainer, module, self.pruner)
            if self.pruner.steps == 1:  # now the optimizers have state
                self._check_cuts(trainer, module, self.pruner)
        if not self._cuts_wait and is_time_to_cut(trainer, self.pruner, stepped, self.options.shrink):
            self.track_averages(trainer, module)
            failure = cut_during_training(trainer, module, self.pruner)
            if failure is not None:
                self._cuts_wait = True
                rank_zero_warn(f"gdp: a cut on the way failed, so channels are cut when training is over. {failure}")

    def _check_cuts(self, trainer: Any, module: nn.Module, pruner: Pruner) -> None:
        """Check that the network can be cut while it trains, if it is to be."""
        self.track_averages(trainer, module)
        if self.options.shrink != "end" and not self._cuts_wait:
            with self._given_up_if_refused():
                check_cuts(trainer, module, pruner.gates)

    @contextmanager
    def _given_up_if_refused(self) -> Iterator[None]:
        try:
            yield
        except GDPError:
            if self.pruner is not None and not self.pruner.gates.closed:
                self._give_up()
            raise

    def end_fit(self, trainer: Any, module: nn.Module) -> None:
        """Make the network small; other callbacks have saved and averaged weights before."""
        if self.pruner is None:
            return
        with never_fatal("averages that were made since the last epoch are not pruned along"):
            self.track_averages(trainer, module)
        report, gates = finalize(trainer, module, self.pruner), self.pruner.gates
        self.pruner = self.pruner if gates.inserted else None
        if report is not None:
            with never_fatal("checkpoints that are saved from here on do not say what was cut"):
                self._record.set_removal(module, gates, report)

    def saved_state(self, module: nn.Module) -> CheckpointState | None:
        """Return what a checkpoint has to say now; None if there is nothing."""
        return self._record.state(module, self.pruner)

    def _restore(self, trainer: Any, module: nn.Module, checkpoint: dict[str, Any]) -> None:
        """Take over the run of a checkpoint whose weights Lightning is about to load."""
        if trainer.ckpt_path is not None:
            check_intact(trainer.ckpt_path)
        self.track_averages(trainer, module)
        if self._record.restore(module, checkpoint, self.pruner):
            self.pruner = None
            self._close_held_out()

    def track_averages(self, trainer: Any, module: nn.Module) -> None:
        """Gate averages of the network that have been made since, at any time; warn of layers thawed since."""
        if self.pruner is not None:
            track_averages(trainer, module, find_network(module, self.options.module)[0], self.pruner.gates)
            self._thawed.check(self.pruner)

    def show_parameters(self, shown: bool) -> None:
        """Let `layer.weight` be the Parameter for hooks that have their turn, or the product for whoever computes."""
        if self.pruner is not None:
            self.pruner.gates.view.shows_parameter = shown

    def fail(self, trainer: Any, error: BaseException) -> None:
        """Clean up after an error."""
        self.clean_up()
        if isinstance(error, GDPError) and trainer.state.fn != "fit":
            forget_loaded_checkpoint(trainer)

    def clean_up(self) -> None:
        """Leave nothing behind that is of use inside a Trainer's call only; gates go if no step was made."""
        self.show_parameters(False)
        self._passes.end_batch()
        self._close_held_out()
        self._extended_hooks.close()
        self._data.close()
        if self.pruner is not None and self.pruner.steps == 0:
            self._give_up()

    def _close_held_out(self) -> None:
        if self._held_out is not None:
            self._held_out.close()
            self._held_out = None

    def _give_up(self) -> None:
        """Take the gates away, as if nothing had been; not from a network that has been cut in part."""
        if self.pruner is not None and not bool(self.pruner.gates.removed.any()):
            self.pruner.gates.withdraw()
            self.pruner = None
