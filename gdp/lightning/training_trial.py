"""Find out before the first step what `training_step` reads inside the network beside `forward`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.lightning.compat import rank_zero_info, rank_zero_warn, rebuild_ddp
from gdp.lightning.module_hooks import once_seen
from gdp.lightning.protected_step import protected_loss, put_back
from gdp.pruning import Pruner
from gdp.surgery import StepTrial, try_step
from gdp.utils import Snapshot, under_plain_names

NAMED = 3  # parameters or groups that a message names


class TrainingTrial:
    """Run the module's `training_step` on the first batch of a run, with channels closed and with channels cut.

    What it reads beside `forward` (an auxiliary head, the features of a distillation) is held open. Nothing of the
    trial stays: no gradient, no number that was drawn, nothing logged, no attribute of a module.
    """

    def __init__(self) -> None:
        self._due = True
        self._succeeded = False

    def prepare(self, trainer: Any, module: Any, pruner: Pruner, hooks: ExitStack) -> None:
        """Let the trial be made if this is the first batch of the run, when all hooks have seen it.

        With manual optimization `training_step` trains the weights, so there is none.

        Args:
            trainer: of either family, at the start of a batch.
            module: the LightningModule.
            pruner: of the run.
            hooks: restores the hooks of the module.
        """
        if self._due and pruner.steps == 0 and module.automatic_optimization:
            hooks.callback(once_seen(module, partial(self._run, trainer, module, pruner)))

    def _run(self, trainer: Any, module: Any, pruner: Pruner, batch: Any, batch_idx: int) -> None:
        """Make the trial, and hold open what has to stay.

        Args:
            trainer: of either family.
            module: the LightningModule.
            pruner: of the run.
            batch: as `training_step` is about to get it.
            batch_idx: its number.

        Raises:
            GDPError: the target is out of reach with what has to stay.
        """
        self._due = False
        try:
            trial = _tried(trainer, module, pruner, batch, batch_idx)
        finally:
            rebuild_ddp(trainer.strategy, module)  # it has seen parameters of other shapes
        if trial is not None:
            self._succeeded = True
            _hold_open(pruner, trial)

    def check_unread(self, pruner: Pruner, shrink: str | int) -> None:
        """Say which parameters of the network are trained though `forward` never reads them, before the first step.

        Args:
            pruner: of the run; gradients are there.
            shrink: as `GDPCallback` takes it.

        Raises:
            GDPError: there are some, no trial has shown that they do not need the channels, and these are to be cut
                while the network trains.
        """
        parameters = under_plain_names(pruner.gates.model, pruner.gates.model.named_parameters())
        trained = [n for n in sorted(pruner.graph.unread) if n in parameters and parameters[n].grad is not None]
        if pruner.steps > 0 or not trained:
            return
        found = (
            f"{_named(trained)} of {type(pruner.gates.model).__name__} have a gradient, but forward never reads them"
        )
        if self._succeeded:
            rank_zero_warn(f"gdp: {found}; they stay as they are, and no FLOPs are counted for them.")
        elif shrink == "end":
            rank_zero_warn(
                f"gdp: {found}. What else calls them may not follow the cut of the channels that they read; "
                "leave those layers alone with ignore=[...]."
            )
        else:
            raise GDPError(
                f"{found}, and training_step could not be tried on a cut network, so it may break at the first cut. "
                "Leave these modules, and the layers whose channels they read, alone with ignore=[...], or cut when "
                "training is over: GDPCallback(shrink='end')."
            )


def _tried(trainer: Any, module: Any, pruner: Pruner, batch: Any, batch_idx: int) -> StepTrial | None:
    """Return what a trial of the module's `training_step` shows; None if it can't be run beside training.

    Args:
        trainer: of either family.
        module: the LightningModule.
        pruner: of the run.
        batch: as `training_step` is about to get it; it is not changed.
        batch_idx: its number.
    """

    @contextmanager
    def step() -> Iterator[Tensor]:
        """Give the loss of the batch."""
        with protected_loss(trainer, module, copy.deepcopy(batch), batch_idx) as loss:
            if loss is None:
                raise GDPError("training_step returns no loss.")
            yield loss

    try:
        snapshot = Snapshot(module)
    except GDPError:  # lazy layers would be made by the trial
        return None
    with torch.compiler.set_stance("force_eager"):
        return try_step(pruner.gates, step, lambda: put_back(module, snapshot))


def _hold_open(pruner: Pruner, trial: StepTrial) -> None:
    """Hold open what a training step reads.

    What it merely reads, such as the activations that a penalty is on, may be cut if the target asks for it.

    Args:
        pruner: of the run.
        trial: of the training step.

    Raises:
        GDPError: the target is out of reach with what the training step can't do without.
    """
    try:
        pruner.hold_open(trial.failing | trial.read)
    except GDPError:
        if not trial.read:
            raise
        pruner.hold_open(trial.failing)
        rank_zero_warn(
            f"gdp: training_step reads what {_named(trial.read)} make beside forward. The target is out of reach if "
            "all of it stays, so channels that are cut will be missing there from then on."
        )
    if pruner.graph.held:
        held = [held.name for held in pruner.graph.held]
        rank_zero_info(f"gdp: training_step reads what {_named(held)} make beside forward, so it stays.")


def _named(found: Iterable[str]) -> str:
    """Return some names for a message.

    Args:
        found: names of groups or parameters.
    """
    names = list(found)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
