"""GDPCallback: pruning as a Lightning callback. Its hooks call a `PruningRun`, which does the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from gdp.lightning.compat import Callback
from gdp.lightning.lifecycle import finish_gates
from gdp.lightning.options import PruningOptions
from gdp.lightning.run import PruningRun
from gdp.methods import PruningMethod
from gdp.pruning import Pruner
from gdp.report import Report

if TYPE_CHECKING:
    import pytorch_lightning as pl


class GDPCallback(Callback):
    """Prune the network of a LightningModule while it trains, until `target_flops` of its FLOPs remain.

    When `fit` returns, the network is plain and small: no gate, mask or hook is left, and it computes what the trained
    one computed. Optimizers, schedulers and `training_step` are not touched.

    Args:
        target_flops: fraction of the dense FLOPs (as fvcore counts them) that *remains*, in (0, 1].
        module: name of the network inside the LightningModule, e.g. "net.backbone". Default: its only child with
            weights, else the LightningModule's own forward.
        ignore: layers whose inputs and outputs keep their sizes: names (within network or LightningModule), globs over
            names, or module types.
        method: says which channels matter, and how gates close: "polar" (Fisher importance, with the gates of GDP),
            "annealed" (after DAIS; takes a part of the training data for the gates) or another of
            gdp.methods.names(); or one of these classes with options, such as gdp.Polar(end=0.8), which say when and
            how fast gates close, for instance; or a gdp.PruningMethod of your own.
        blocks: let residual branches go as a whole, if that is what the budget asks for; the constant per channel that
            a branch without open channels adds stays (`report.blocks` names them).
        min_channels: what every group keeps at least: a number of channels (int) or a fraction of the group (float).
        round_to: channels that are kept come in multiples of this number (or all of a group); the target still holds.
        shrink: when closed channels are cut: "epoch", at the end of every epoch, so that training gets cheaper as it
            goes; a number of optimizer steps; or "end", when training is over.
        example: what the network's own forward takes: one tensor, or a tuple of positional inputs. Default: what the
            LightningModule hands to the network of its `example_input_array` or of the first batch.

    Attributes:
        options: the arguments.
        run: what the hooks call.

    Raises:
        GDPError: here, if an argument is out of range; before the first training step, if the target can't be reached
            or nothing can be pruned; and by the end of the first, if `shrink` asks for cuts on the way that this run
            does not allow.
    """

    def __init__(
        self,
        target_flops: float,
        module: str | None = None,
        ignore: Sequence[str | type] = (),
        method: str | PruningMethod = "polar",
        blocks: bool = False,
        min_channels: int | float = 1,  # both named: LightningCLI would make 1.0, all channels, of an int
        round_to: int = 1,
        shrink: Literal["epoch", "end"] | int = "epoch",
        example: Tensor | tuple[Any, ...] | None = None,
    ) -> None:
        super().__init__()
        widths = (min_channels, round_to)
        self.options = PruningOptions(target_flops, module, ignore, method, blocks, *widths, shrink, example)
        self.run = PruningRun(self.options, self.state_key)

    @property
    def report(self) -> Report | None:
        """The record of the removal, once `fit` has returned."""
        return self.run.report

    @property
    def pruner(self) -> Pruner | None:
        """The pruner of the network, while it has gates."""
        return self.run.pruner

    @property
    def state_key(self) -> str:
        """Under which the state of this callback lies in checkpoints."""
        return self._generate_state_key(module=self.options.module)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Get ready for a stage."""
        self.run.prepare(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let loaded gates act."""
        self.run.start_fit(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out how long the run is."""
        self.run.start_training(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gate averages that were made since."""
        self.run.track_averages(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gate averages that were made since; from here on weights are computed with."""
        self.run.show_parameters(False)
        self.run.track_averages(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let weights be computed with, and try `training_step` on the first batch."""
        self.run.show_parameters(False)
        self.run.start_batch(trainer, pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Note the loss."""
        self.run.add_loss(loss)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show parameters to the hooks that follow; with manual optimization `training_step` goes on."""
        self.run.show_parameters(pl_module.automatic_optimization)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Read the gates' gradients."""
        self.run.before_optimizer_step(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move gates, and cut; parameters are shown to the hooks that follow."""
        self.run.show_parameters(False)
        self.run.end_batch(trainer, pl_module, outputs)
        self.run.show_parameters(pl_module.automatic_optimization)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make sure of the target."""
        self.run.show_parameters(False)
        if self.pruner is not None and self.pruner.steps > 0:
            finish_gates(trainer, self.pruner)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the network small, after all callbacks have saved and averaged weights at the end of training."""
        self.run.end_fit(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the run needs to be resumed."""
        state = self.run.saved_state(pl_module)
        if state is not None:
            checkpoint["callbacks"][self.state_key] = state.to_dict()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Clean up after an error."""
        self.run.fail(trainer, exception)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Clean up after a stage."""
        self.run.clean_up()
