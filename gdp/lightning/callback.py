"""GDPCallback: pruning as a Lightning callback. Thin hooks around `Pruner`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.gates import HOOKS, Gates
from gdp.lightning.cut_in_training import check_cuts, cut_during_training
from gdp.lightning.lifecycle import finalize, finish_gates
from gdp.lightning.network import find_network
from gdp.lightning.run import PruningRun
from gdp.lightning.unsupported import check_no_lbfgs
from gdp.methods import MethodName, PruningMethod, resolve_method
from gdp.pruning import Pruner
from gdp.saving import pruned_state
from gdp.selection import check_target, check_width_options
from gdp.tracing import check_ignore

if TYPE_CHECKING:
    import pytorch_lightning as pl


class GDPCallback(PruningRun):
    """Prune the network of a LightningModule while it trains, until `target_flops` of its FLOPs remain.

    When `fit` returns, the network is plain and small: no gate, mask or hook is left, and it computes what the trained
    one computed. Optimizers, schedulers and `training_step` are not touched.

    Args:
        target_flops: fraction of the dense FLOPs (as fvcore counts them) that *remains*, in (0, 1].
        module: name of the network inside the LightningModule, e.g. "net.backbone". Default: its only child with
            weights, else the LightningModule's own forward.
        ignore: layers whose inputs and outputs keep their sizes: names (within network or LightningModule), globs over
            names, or module types.
        gate: the kind of gates: "polar" (GDP), "annealed" (DAIS; takes a part of the training data for the gates), or
            one of gdp.Polar and gdp.Annealed with options: when and how fast gates close, for instance.
        blocks: let residual branches go as a whole, if that is what the budget asks for; the constant per channel that
            a branch without open channels adds stays (`report.blocks` names them).
        min_channels: what every group keeps at least: a number of channels (int) or a fraction of the group (float).
        round_to: channels that are kept come in multiples of this number (or all of a group); the target still holds.
        shrink: when closed channels are cut: "epoch", at the end of every epoch, so that training gets cheaper as it
            goes; a number of optimizer steps; or "end", when training is over.

    Attributes:
        report: the record of the removal, once `fit` has returned.

    Raises:
        GDPError: before the first training step, if the target can't be reached or nothing can be pruned; and by the
            end of the first, if `shrink` asks for cuts on the way that this run does not allow.
    """

    def __init__(
        self,
        target_flops: float,
        module: str | None = None,
        ignore: Sequence[str | type] = (),
        gate: MethodName | PruningMethod = "polar",
        blocks: bool = False,
        min_channels: int | float = 1,  # both named: LightningCLI would make 1.0, all channels, of an int
        round_to: int = 1,
        shrink: Literal["epoch", "end"] | int = "epoch",
    ) -> None:
        super().__init__()
        check_target(target_flops)
        check_width_options(min_channels, round_to)
        if not isinstance(blocks, bool):
            raise GDPError(f"Expected `blocks` to be True or False, but got {blocks!r}.")
        if shrink not in ("epoch", "end") and (isinstance(shrink, bool) or not isinstance(shrink, int) or shrink < 1):
            raise GDPError(
                f"Expected `shrink` to be 'epoch', 'end' or a number of optimizer steps, but got {shrink!r}."
            )
        self.shrink: str | int = shrink
        self.target_flops = target_flops
        self.module = module
        check_ignore(ignore)
        self.ignore = tuple(ignore)
        self.gate = resolve_method(gate)
        self.blocks, self.min_channels, self.round_to = blocks, min_channels, round_to

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_hooks()
        self._follow_averages(trainer, pl_module)
        if self.pruner is not None:
            check_no_lbfgs(trainer)
            self.pruner.resume()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pruner is not None:
            late = self._clock.start(trainer, self.pruner)
            if self._held_out is not None:
                self._held_out.check(trainer)
                if late:
                    self._held_out.step(trainer, pl_module, self.pruner)
            self._refuse_cuts(trainer, pl_module, self.pruner.gates)

    # averages may be made at any time
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow_averages(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        HOOKS.run = False
        self._follow_averages(trainer, pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self.pruner is not None:
            self._clock.add_loss(loss)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.pruner is not None:
            self._clock.before_optimizer_step(trainer, optimizer, self.pruner)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        HOOKS.run = False

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        HOOKS.run = pl_module.automatic_optimization  # else training_step goes on

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        HOOKS.run = False
        if self.pruner is None:
            return
        stepped = self._clock.step(trainer, self.pruner)
        if self._held_out is not None and stepped and self.pruner.steps == 1 and not outputs:
            self._give_up()
            raise GDPError(
                f"Annealed gates learn from what {type(pl_module).__name__}.training_step returns, and need a loss, "
                "but got none at the first step. Return the loss, or use method='polar'."
            )
        if stepped:
            if self._held_out is not None:
                self._held_out.step(trainer, pl_module, self.pruner)
            place = self._place(trainer)
            pl_module.log_dict({f"{place}/{k}": v for k, v in self.pruner.progress().items()}, prog_bar=True)
            self._board.write(trainer, self.pruner, place)
            if self.pruner.steps == 1:  # now the optimizers have state
                self._refuse_cuts(trainer, pl_module, self.pruner.gates)
        if self._is_due(trainer, self.pruner, stepped):
            self._cut(trainer, pl_module, self.pruner)
        HOOKS.run = pl_module.automatic_optimization

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        HOOKS.run = False
        if self.pruner is not None and self.pruner.steps > 0:
            finish_gates(trainer, self.pruner)

    # Other callbacks still save and average weights when training ends; the cut comes after all of them.
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pruner is not None:
            self._follow_averages(trainer, pl_module)
            self.report = finalize(trainer, pl_module, self.pruner)
            if self.report is not None:
                gates, name = self.pruner.gates, find_network(pl_module, self.module)[0]
                self._closed, self._after = (
                    (gates.gate_param == 0).cpu(),
                    pruned_state(pl_module, name, self.report, gates),
                )
            self.pruner = None

    def _is_due(self, trainer: pl.Trainer, pruner: Pruner, stepped: bool) -> bool:
        """Whether closed channels are cut now; at the end of the window they are, however long the epoch is."""
        if self.shrink == "end" or self._waits:
            return False
        steps = pruner.steps
        regular = trainer.is_last_batch if self.shrink == "epoch" else stepped and steps % int(self.shrink) == 0
        return regular or (stepped and steps == pruner.window.end)

    def _refuse_cuts(self, trainer: pl.Trainer, pl_module: pl.LightningModule, gates: Gates) -> None:
        self._follow_averages(trainer, pl_module)
        if self.shrink == "end" or self._waits:
            return
        try:
            check_cuts(trainer, pl_module, gates)
        except GDPError:
            if not gates.closed:
                self._give_up()
            raise

    def _cut(self, trainer: pl.Trainer, pl_module: pl.LightningModule, pruner: Pruner) -> None:
        self._follow_averages(trainer, pl_module)
        failure = cut_during_training(trainer, pl_module, pruner)
        if failure is not None:
            self._waits = True
            rank_zero_warn(f"gdp: a cut on the way failed, so channels are cut when training is over. {failure}")

    def _place(self, trainer: pl.Trainer) -> str:
        """Under which name loggers show this pruning."""
        several = sum(isinstance(callback, GDPCallback) for callback in trainer.callbacks) > 1  # type: ignore[attr-defined]
        return f"gdp/{self.module}" if several and self.module else "gdp"
