"""How a run ends: the target is made sure of, and the network becomes small."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import nn

from gdp.hooks import lives_here
from gdp.pruner import Pruner
from gdp.readers import fold_copies
from gdp.removal import fold, remove
from gdp.report import Report
from gdp.shrink import cuttable


def leave(pruner: Pruner) -> None:
    """Another network is trained from now on; the one of an interrupted run becomes plain, and computes what it did."""
    fold(pruner.gates)
    rank_zero_warn(
        "gdp: the network of an interrupted run is left as it was, without gates. What reads closed channels is zero; "
        "gdp.remove_zeros(network, example_input) cuts them out."
    )


def finish(trainer: Any, pruner: Pruner) -> None:
    """Training is over; if the window is not, say so, and close what the target asks for."""
    if not pruner.done and not getattr(trainer, "fast_dev_run", False):
        rank_zero_warn(
            f"gdp: training ended after {pruner.steps} steps, before the window for pruning did (step "
            f"{pruner.window.end} of {pruner.total_steps}). The channels over the target are closed at once, "
            "without the training that would make up for it; expect a loss of accuracy. Let early stopping begin "
            "after the window, or end the window earlier: GDPCallback(gate=gdp."
            f"{type(pruner.family).__name__}(end=...))."
        )
    pruner.finish()


def end(trainer: Any, module: nn.Module, pruner: Pruner) -> Report | None:
    """Fold what is open and cut what is closed; none if there is nothing to report, since the network is as it was.

    Copies that the user has made of the gated network, in the training module, become plain as well.

    Raises:
        GDPError: the cut is not exact; network and gates are as they were.
    """
    gates = pruner.gates
    if pruner.steps == 0:
        if not bool(gates.gone.any()):
            gates.withdraw()
        rank_zero_warn("gdp: no training step was made, so nothing is known about the channels; nothing was removed.")
        return None
    finish(trainer, pruner)  # a run that was resumed at its very end has seen no on_train_end
    report = None
    if lives_here(trainer):
        report = remove(gates.model, pruner.graph, gates, cuttable(gates, trainer.optimizers))
    else:
        fold(gates)
        _say_what_comes_back(trainer)
    others = [getattr(callback, "pruner", None) for callback in trainer.callbacks]
    fold_copies(module, [r for p in others if isinstance(p, Pruner) and p is not pruner for r in p.gates.everywhere])
    return report


def _say_what_comes_back(trainer: Any) -> None:
    rank_zero_warn(
        f"gdp: {type(trainer.strategy).__name__} trained a copy of the network in other processes, from which only "
        "weights of the same shapes come back. What reads closed channels is zero now; "
        "gdp.remove_zeros(network, example_input) cuts them out. strategy='ddp' needs no such call."
    )
