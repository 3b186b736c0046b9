"""The part of GDPCallback that puts gates in and carries a pruning run through fits and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import HOOKS
from gdp.lightning.averaging import find_averages
from gdp.lightning.compat import Callback
from gdp.lightning.cut_in_training import track_averages
from gdp.lightning.held_out import HeldOutBatches, make_held_out
from gdp.lightning.lifecycle import abandon, build_pruner
from gdp.lightning.network import find_network
from gdp.lightning.restore import prepare_for_evaluation
from gdp.lightning.step_counter import StepCounter
from gdp.lightning.tensorboard import TensorBoardWriter
from gdp.lightning.unsupported import check_setup, extend_once, trains_in_this_process
from gdp.methods import PruningMethod
from gdp.pruning import Pruner
from gdp.report import Report, report_of
from gdp.saving import gated_state, restore_run
from gdp.utils import check_intact

if TYPE_CHECKING:
    import pytorch_lightning as pl


class PruningRun(Callback):
    """What happens to a pruning run outside of training steps; GDPCallback's arguments are its attributes."""

    target_flops: float
    module: str | None
    ignore: Sequence[str | type]
    gate: PruningMethod
    blocks: bool
    min_channels: int | float
    round_to: int

    def __init__(self) -> None:
        self.report: Report | None = None
        self.pruner: Pruner | None = None
        self._clock = StepCounter()
        self._held_out: HeldOutBatches | None = None
        self._board = TensorBoardWriter()
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
            check_setup(trainer)
            if self.pruner is not None and self.pruner.gates.model not in pl_module.modules():
                abandon(self.pruner)
                self.pruner = None
            self._give_up()  # what an interrupted fit left
            small = self.report is not None and any(report_of(m) is self.report for m in pl_module.modules())
            self._held_out = None if small else make_held_out(trainer, pl_module, self.gate)
            self._waits = not trains_in_this_process(trainer)
            self._restore.append(extend_once(pl_module, setup))

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
            state.update(gated_state(pl_module, name, self.pruner.gates))
        elif report_of(network) is self.report:
            state.update(self._after)

    def _insert(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        name, network = find_network(pl_module, self.module)
        if self.report is not None and report_of(network) is self.report:
            rank_zero_info("gdp: this network is pruned already; it is trained on as it is.")
            return
        if self.pruner is not None and self.pruner.gates.model is network:
            self.pruner.restart()
            rank_zero_warn(
                "gdp: an interrupted run has cut this network in part. Pruning begins anew from here; the target is a "
                "fraction of the FLOPs before that run."
            )
            return
        self.report, self._closed, self._board = None, None, TensorBoardWriter()
        self._after = {}
        self.pruner = build_pruner(
            trainer, pl_module, name, network, self.target_flops, self.ignore, self.gate, self.blocks,
            (self.min_channels, self.round_to),
        )  # fmt: skip

    def _resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.ckpt_path is not None:
            check_intact(trainer.ckpt_path)
        self._follow_averages(trainer, pl_module)
        network, saved = find_network(pl_module, self.module)[1], self._saved(checkpoint)
        report = restore_run(checkpoint, saved, pl_module, network, self.pruner)
        if report is not None:
            self.report, self.pruner, self._closed = report, None, None
            self._end_lessons()
            self._after = {key: saved[key] for key in ("network", "gone", "plan", "report")}
        self.load_state_dict(saved)

    def _load(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        name, network = find_network(pl_module, self.module)
        closed = self._closed if self.report is not None and report_of(network) is self.report else None
        copies = find_averages(pl_module, name, network, trainer.callbacks)  # type: ignore[attr-defined]
        prepare_for_evaluation(
            checkpoint, self._saved(checkpoint), pl_module, network, copies, closed, str(trainer.ckpt_path)
        )

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
            track_averages(trainer, pl_module, find_network(pl_module, self.module)[0], self.pruner.gates)

    def _give_up(self) -> None:
        """Take the gates away, as if nothing had been; not from a network that has been cut in part."""
        if self.pruner is not None and not bool(self.pruner.gates.removed.any()):
            self.pruner.gates.withdraw()
            self.pruner = None
