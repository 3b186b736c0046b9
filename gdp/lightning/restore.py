"""Checkpoints that Lightning is about to load: before it does, the network and the checkpoint are made to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.graph import CutPlan
from gdp.lightning.averaging import Copy
from gdp.pruning import Pruner
from gdp.report import Report, register_report, report_of
from gdp.saving import CheckpointState, fold_state_dict, load_plain
from gdp.surgery import Undo, cut, keep_entries
from gdp.utils import GATE_SUFFIX, plain_state_dict, state_dict_for

State = dict[str, Any]

WRITTEN_BEFORE_THE_CUT = (
    "This checkpoint was written before the channels were cut and does not fit the small network; nothing was loaded. "
    "Use the network as it is: trainer.test(model, ...). Without a model, Trainer.test takes the best checkpoint. "
    "gdp.load_checkpoint(LitModel(), path) loads it as the network it was."
)


def restore_run(
    checkpoint: State, saved: CheckpointState | None, module: nn.Module, network: nn.Module, pruner: Pruner | None
) -> Report | None:
    """Make a run what it was when the checkpoint was written, before Lightning loads the weights.

    Args:
        checkpoint: of Lightning; a run without gdp is gone on with, so gates are added where there are none.
        saved: what the callback has left in it.
        module: the training module.
        network: the network in it.
        pruner: of this run; None if the network is small already.

    Returns:
        The report, if the checkpoint was written after the cut.

    Raises:
        GDPError: the checkpoint does not belong to this run.
    """
    if saved is not None and saved.stage == "pruned":
        return _restore_small(saved, module, network, pruner)
    if saved is not None and saved.pruner is not None:
        if pruner is None:
            raise GDPError(
                "This network is small already, but the checkpoint is from before its channels were cut. Build the "
                "network anew, and resume with that one."
            )
        pruner.load_state_dict(saved.pruner)
        checkpoint["state_dict"] = state_dict_for(module, checkpoint["state_dict"])
    elif any(name.endswith(GATE_SUFFIX) for name in checkpoint["state_dict"]):
        raise GDPError(
            "The checkpoint has gates but says nothing of this GDPCallback: it was written with another `module`, or "
            "with save_weights_only=True. Resume with the `module` of that run, from a whole checkpoint."
        )
    else:
        for key in {"state_dict", "current_model_state"} & checkpoint.keys():
            gates = {k: torch.ones_like(gate) for k, gate in module.state_dict().items() if k.endswith(GATE_SUFFIX)}
            checkpoint[key] = gates | state_dict_for(module, checkpoint[key])
    return None


def _restore_small(saved: CheckpointState, module: nn.Module, network: nn.Module, pruner: Pruner | None) -> Report:
    """Make the network small as it was when the checkpoint was written after the cut; return the report.

    Args:
        saved: what the callback has left in the checkpoint.
        module: the training module.
        network: the network in it.
        pruner: of this run, if the network has gates.
    """
    if CutPlan.from_dict(saved.plan).blocks:
        raise GDPError(
            "A run can't be resumed after whole blocks have gone, as its optimizers knew their parameters. Load the "
            "network by gdp.load_checkpoint(LitModel(), path), and train it on without ckpt_path."
        )
    copies = [] if pruner is None else pruner.gates.copies
    if pruner is not None:
        pruner.gates.withdraw()
    known = report_of(network)
    if known is not None and known.plan.to_dict() == saved.plan:
        return known
    _cut_module(module, saved.network, CutPlan.from_dict(saved.removed), copies)
    report = saved.to_report()
    register_report(network, report)
    return report


def prepare_for_evaluation(
    checkpoint: State,
    saved: CheckpointState | None,
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
    if saved is None:
        return
    if any(name.endswith(GATE_SUFFIX) for name in module.state_dict()):
        raise GDPError(
            "This network has gates, from a run that was interrupted, and the checkpoint can't be loaded into it. Take "
            "a fresh model: trainer.test(LitModel(), ckpt_path=...); or finish the run first."
        )
    if saved.stage == "pruned":
        if report_of(network) is None:
            _cut_all(module, saved.network, [saved.removed], copies)
        _replace_state_dicts(checkpoint, partial(state_dict_for, module))
        return
    end = CutPlan.from_dict(saved.closed)
    if report_of(network) is None:
        if end.blocks:
            load_plain(module, checkpoint, path)
            checkpoint["state_dict"] = module.state_dict()
            return
        _cut_all(module, saved.network, [saved.removed, saved.closed], copies)
    elif closed is not None and torch.equal(_removed(saved), closed):  # nothing was cut since
        end = CutPlan(end.shapes, {})
    elif closed is None or not torch.equal(_closed(saved), closed) or end.blocks:
        raise GDPError(WRITTEN_BEFORE_THE_CUT)
    _replace_state_dicts(checkpoint, lambda state: _smaller(module, fold_state_dict(state), end))


def _closed(saved: CheckpointState) -> Tensor:
    """Return the channels that were closed when the checkpoint was written, one bool per channel of all groups."""
    assert saved.pruner is not None
    closed: Tensor = saved.pruner["gates"]["gate_param"].cpu() == 0
    return closed


def _removed(saved: CheckpointState) -> Tensor:
    """Return the channels that had been cut when the checkpoint was written, one bool per channel of all groups."""
    assert saved.pruner is not None
    removed: Tensor = saved.pruner["gates"]["removed"].cpu()
    return removed


def _cut_module(module: nn.Module, name: str, plan: CutPlan, copies: Iterable[Copy]) -> Undo:
    """Cut the training module by a plan for it, and the copies of its network `name` that lie outside of it.

    Args:
        module: the training module.
        name: plain name of the network in it.
        plan: for the training module.
        copies: of the network.
    """
    inside = {id(m) for m in module.modules()}
    with ExitStack() as undo:
        undo.callback(cut(module, plan))
        for part, copy in copies:
            if id(copy) not in inside:
                undo.callback(cut(copy, plan.for_submodule(name).for_submodule(part)))
        return undo.pop_all().close


def _cut_all(module: nn.Module, name: str, plans: Sequence[State | None], copies: Sequence[Copy]) -> None:
    """Cut the training module, and the copies outside of it, by the plans of a checkpoint.

    Args:
        module: the training module.
        name: plain name of the network in it.
        plans: one after the other.
        copies: of the network.
    """
    with ExitStack() as undo:
        try:
            for plan in plans:
                undo.callback(_cut_module(module, name, CutPlan.from_dict(plan), copies))
        except GDPError as error:
            raise GDPError(f"{error} Load every checkpoint into a fresh model, LitModel().") from error
        undo.pop_all()


def _smaller(module: nn.Module, state: State, plan: CutPlan) -> State:
    """Return a state_dict of a module, under the names that it has there, cut by a plan."""
    plain = plain_state_dict(module, state)
    small = {
        name: keep_entries(value, plan.keep[name]) if name in plan.keep else value for name, value in plain.items()
    }
    return state_dict_for(module, small)


def _replace_state_dicts(checkpoint: State, change: Callable[[State], State]) -> None:
    """Change every state_dict of the network in a checkpoint: its own, and those that averaging callbacks add.

    Args:
        checkpoint: of Lightning.
        change: makes a state_dict of a state_dict.
    """
    for key in {"state_dict", "current_model_state"} & checkpoint.keys():
        checkpoint[key] = change(checkpoint[key])
    for state in checkpoint.get("callbacks", {}).values():
        average: Any = state.get("average_model_state") if isinstance(state, Mapping) else None
        if average is not None:
            state["average_model_state"] = change(average)
