"""Checkpoints that are evaluated: before Lightning loads one, it and the network are made to fit each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.graph import CutPlan
from gdp.lightning.averaging import Copy
from gdp.report import report_of
from gdp.saving import State, cut_along, fold_state_dict, load_plain
from gdp.surgery import keep_entries
from gdp.utils import GATE_SUFFIX, state_dict_for

BEFORE = (
    "This checkpoint was written before the channels were cut and does not fit the small network; nothing was loaded. "
    "Use the network as it is: trainer.test(model, ...). Without a model, Trainer.test takes the best checkpoint. "
    "gdp.load_checkpoint(LitModel(), path) loads it as the network it was."
)


def prepare_for_evaluation(
    checkpoint: State,
    saved: State,
    module: nn.Module,
    network: nn.Module,
    copies: Sequence[Copy],
    closed: Tensor | None,
    path: str,
) -> None:
    """Make a checkpoint and the network that is to be evaluated fit each other.

    Args:
        checkpoint: of Lightning; its state_dicts are replaced.
        saved: what the callback has left in it.
        module: the training module.
        network: the network in it.
        copies: its averages, inside the module and outside.
        closed: the channels that were cut from this network in this process, one bool per channel, if they were.
        path: of the checkpoint.

    Raises:
        GDPError: they can't be made to fit; the network is as it was.
    """
    if "network" not in saved:
        return
    if any(name.endswith(GATE_SUFFIX) for name in module.state_dict()):
        raise GDPError(
            "This network has gates, from a run that was interrupted, and the checkpoint can't be loaded into it. Take "
            "a fresh model: trainer.test(LitModel(), ckpt_path=...); or finish the run first."
        )
    if "report" in saved:
        if report_of(network) is None:
            _cut_all(module, saved, copies, ("gone",))
        _replace(checkpoint, partial(state_dict_for, module))
        return
    end = CutPlan.from_dict(saved["closed"])
    if report_of(network) is None:
        if end.blocks:
            load_plain(module, checkpoint, path)
            checkpoint["state_dict"] = module.state_dict()
            return
        _cut_all(module, saved, copies, ("gone", "closed"))
    elif closed is None or not torch.equal(saved["pruner"]["raw"].cpu() == 0, closed) or end.blocks:
        raise GDPError(BEFORE)
    _replace(checkpoint, lambda state: state_dict_for(module, _smaller(fold_state_dict(state), end)))


def _cut_all(module: nn.Module, saved: State, copies: Sequence[Copy], keys: Sequence[str]) -> None:
    """Cut the training module, and the copies outside of it, by the plans of a checkpoint."""
    with ExitStack() as undo:
        try:
            for key in keys:
                undo.callback(cut_along(module, saved["network"], CutPlan.from_dict(saved[key]), copies))
        except GDPError as error:
            raise GDPError(f"{error} Load every checkpoint into a fresh model, LitModel().") from error
        undo.pop_all()


def _smaller(state: State, plan: CutPlan) -> State:
    """A state_dict under plain names, cut by a plan."""
    return {name: keep_entries(value, plan.keep[name]) if name in plan.keep else value for name, value in state.items()}


def _replace(checkpoint: State, change: Callable[[State], State]) -> None:
    """Change every state_dict of the network in a checkpoint: its own, and those that averaging callbacks add."""
    for key in {"state_dict", "current_model_state"} & checkpoint.keys():
        checkpoint[key] = change(checkpoint[key])
    for state in checkpoint.get("callbacks", {}).values():
        average: Any = state.get("average_model_state") if isinstance(state, Mapping) else None
        if average is not None:
            state["average_model_state"] = change(average)
