"""GDPCallback: pruning as a Lightning callback. Thin hooks around `Pruner`; the only file that imports Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from gdp.board import Board
from gdp.budget import check_target
from gdp.checkpoint import pruned, resume, snapshot
from gdp.copies import averages
from gdp.ending import end, finish, leave
from gdp.entry import start_pruning
from gdp.errors import GDPError
from gdp.evaluate import load
from gdp.example import find_network
from gdp.family import GateFamily
from gdp.files import check_intact
from gdp.follow import cut_on_the_way, follow_averages, refuse_cuts
from gdp.gates import Gates
from gdp.held_out import HeldOut, held_out
from gdp.hooks import extend_once, lives_here, refuse_setup
from gdp.kinds import Kind, family_of
from gdp.lightning import Callback
from gdp.progress import Clock, refuse_lbfgs
from gdp.pruner import Pruner
from gdp.readers import HOOKS
from gdp.report import Report
from gdp.store import recall
from gdp.trace import check_ignore
from gdp.widths import check_widths

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
        gate: Kind | GateFamily = "polar",
        blocks: bool = False,
        min_channels: int | float = 1,  # both named: LightningCLI would make 1.0, all channels, of an int
        round_to: int = 1,
        shrink: Literal["epoch", "end"] | int = "epoch",
    ) -> None:
        check_target(target_flops)
        check_widths(min_channels, round_to)
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
        self.gate = family_of(gate)
        self.blocks, self.min_channels, self.round_to = blocks, min_channels, round_to
        self.report: Report | None = None
        self.pruner: Pruner | None = None
        self._clock = Clock()
        self._held_out: HeldOut | None = None
        self._board = Board()
        self._waits = False  # for the end of training, since cuts on the way are not possible
        self._closed: Tensor | None = None  # channels that were cut in all
        self._after: dict[str, Any] = {}  # what checkpoints say after the cut
        self._restore: list[Callable[[], None]] = []

    # Gates go in when the module is complete, after its own `setup` and `configure_model`, and before a checkpoint is
    # restored and the strategy wraps it; what was cut by then goes before the weights are loaded. Lightning calls no
    # callback at these moments, so hooks of the module are extended for once; `configure_model` not before other
    # callbacks have had their `setup`, as some ask whether the module has one.
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        def setup(original: Callable[..., None], stage: str) -> None:
            original(stage=stage)
            self._restore.append(extend_once(pl_module, configure_model))

        def configure_model(original: Callable[[], None]) -> None:
            original()
            with torch.device("cpu"):  # Lightning calls this with the accelerator as the default device
                self._insert(trainer, pl_module)

        def on_load_checkpoint(original: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
            (self._resume if stage == "fit" else self._load)(trainer, pl_module, checkpoint)
            original(checkpoint)

        self._restore = [extend_once(pl_module, on_load_checkpoint)]
        if stage == "fit":
            refuse_setup(trainer)
            if self.pruner is not None and self.pruner.gates.model not in pl_module.modules():
                leave(self.pruner)
                self.pruner = None
            self._give_up()  # what an interrupted fit left
            small = self.report is not None and any(recall(m) is self.report for m in pl_module.modules())
            self._held_out = None if small else held_out(trainer, pl_module, self.gate)
            self._waits = not lives_here(trainer)
            self._restore.append(extend_once(pl_module, setup))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_hooks()
        self._follow_averages(trainer, pl_module)
        if self.pruner is not None:
            refuse_lbfgs(trainer)
            self.pruner.resume()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pruner is not None:
            late = self._clock.start(trainer, self.pruner)
            if self._held_out is not None:
                self._held_out.check(trainer)
                if late:
                    self._held_out.teach(trainer, pl_module, self.pruner)
            self._refuse_cuts(trainer, pl_module, self.pruner.gates)

    # averages may be made at any time
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._follow_averages(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        HOOKS.run = False
        self._follow_averages(trainer, pl_module)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self.pruner is not None:
            self._clock.see(loss)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.pruner is not None:
            self._clock.watch(trainer, optimizer, self.pruner)

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
                "but got none at the first step. Return the loss, or use gate='polar'."
            )
        if stepped:
            if self._held_out is not None:
                self._held_out.teach(trainer, pl_module, self.pruner)
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
            finish(trainer, self.pruner)

    # Other callbacks still save and average weights when training ends; the cut comes after all of them.
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pruner is not None:
            self._follow_averages(trainer, pl_module)
            self.report = end(trainer, pl_module, self.pruner)
            if self.report is not None:
                gates, name = self.pruner.gates, find_network(pl_module, self.module)[0]
                self._closed, self._after = (gates.raw == 0).cpu(), pruned(pl_module, name, self.report, gates)
            self.pruner = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._clean_up()
        if isinstance(exception, GDPError) and trainer.state.fn != "fit":
            # else Lightning would load the refused checkpoint again, without being asked
            trainer._checkpoint_connector._loaded_checkpoint = {}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._clean_up()

    @property
    def state_key(self) -> str:
        return self._generate_state_key(module=self.module)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.pruner is None else {"pruner": self.pruner.state_dict(), **self._clock.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.pruner is not None and "pruner" in state_dict:
            self.pruner.load_state_dict(state_dict["pruner"])
            self._clock.load_state_dict(state_dict)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.pruner is None and not self._after:
            return
        name, network = find_network(pl_module, self.module)
        state = checkpoint["callbacks"].setdefault(self.state_key, {})
        if self.pruner is not None:
            state.update(snapshot(pl_module, name, self.pruner.gates))
        elif recall(network) is self.report:
            state.update(self._after)

    def _insert(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        name, network = find_network(pl_module, self.module)
        if self.report is not None and recall(network) is self.report:
            rank_zero_info("gdp: this network is pruned already; it is trained on as it is.")
            return
        if self.pruner is not None and self.pruner.gates.model is network:
            self.pruner.restart()
            rank_zero_warn(
                "gdp: an interrupted run has cut this network in part. Pruning begins anew from here; the target is a "
                "fraction of the FLOPs before that run."
            )
            return
        self.report, self._closed, self._board = None, None, Board()
        self._after = {}
        self.pruner = start_pruning(
            trainer, pl_module, name, network, self.target_flops, self.ignore, self.gate, self.blocks,
            (self.min_channels, self.round_to),
        )  # fmt: skip

    def _resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.ckpt_path is not None:
            check_intact(trainer.ckpt_path)
        self._follow_averages(trainer, pl_module)
        network, saved = find_network(pl_module, self.module)[1], self._saved(checkpoint)
        report = resume(checkpoint, saved, pl_module, network, self.pruner)
        if report is not None:
            self.report, self.pruner, self._closed = report, None, None
            self._end_lessons()
            self._after = {key: saved[key] for key in ("network", "gone", "plan", "report")}
        self.load_state_dict(saved)

    def _load(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        name, network = find_network(pl_module, self.module)
        closed = self._closed if self.report is not None and recall(network) is self.report else None
        copies = averages(pl_module, name, network, trainer.callbacks)  # type: ignore[attr-defined]
        load(checkpoint, self._saved(checkpoint), pl_module, network, copies, closed, str(trainer.ckpt_path))

    def _saved(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What a callback of this kind has left in a checkpoint."""
        found: dict[str, Any] = checkpoint.get("callbacks", {}).get(self.state_key, {})
        return found

    def _restore_hooks(self) -> None:
        for restore in self._restore:
            restore()
        self._restore = []

    def _clean_up(self) -> None:
        HOOKS.run = False
        self._end_lessons()
        self._restore_hooks()
        if self.pruner is not None and self.pruner.steps == 0:
            self._give_up()

    def _end_lessons(self) -> None:
        if self._held_out is not None:
            self._held_out.close()
            self._held_out = None

    def _follow_averages(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.pruner is not None:
            follow_averages(trainer, pl_module, find_network(pl_module, self.module)[0], self.pruner.gates)

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
            refuse_cuts(trainer, pl_module, gates)
        except GDPError:
            if not gates.closed:
                self._give_up()
            raise

    def _cut(self, trainer: pl.Trainer, pl_module: pl.LightningModule, pruner: Pruner) -> None:
        self._follow_averages(trainer, pl_module)
        failure = cut_on_the_way(trainer, pl_module, pruner)
        if failure is not None:
            self._waits = True
            rank_zero_warn(f"gdp: a cut on the way failed, so channels are cut when training is over. {failure}")

    def _place(self, trainer: pl.Trainer) -> str:
        """Under which name loggers show this pruning."""
        several = sum(isinstance(callback, GDPCallback) for callback in trainer.callbacks) > 1  # type: ignore[attr-defined]
        return f"gdp/{self.module}" if several and self.module else "gdp"

    def _give_up(self) -> None:
        """Take the gates away, as if nothing had been; not from a network that has been cut in part."""
        if self.pruner is not None and not bool(self.pruner.gates.gone.any()):
            self.pruner.gates.withdraw()
            self.pruner = None
