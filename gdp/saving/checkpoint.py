"""Checkpoints of a run: the network as it was then, plain, whether channels were cut by that time or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import nn

from gdp.errors import GDPError
from gdp.gates import Gates, gated_weight
from gdp.graph import CutPlan
from gdp.lightning import Copy
from gdp.pruning import Pruner
from gdp.report import Report, register_report, report_of
from gdp.saving.pruned_file import check_fit
from gdp.surgery import Undo, cut, plan_for
from gdp.utils import GATE_SUFFIX, AnyPath, get_module, named_tensors, plain_state_dict, read_checked, state_dict_for

State = dict[str, Any]
Module = TypeVar("Module", bound=nn.Module)


def gated_state(module: nn.Module, name: str, gates: Gates) -> State:
    """What a checkpoint has to say beside the weights of a gated network, `name` in the training module.

    "gone" is the plan by which it was cut so far, "closed" the plan by which it would be cut now.
    """
    gone = CutPlan.of(gates.graph, gates.indices(gates.removed))
    closed = plan_for(gates, gates.gate_param.cpu() == 0)
    copies = _copies(module, gates)
    plans = {"gone": gone, "closed": closed}
    return {"network": name} | {key: _with_copies(plan, name, copies).to_dict() for key, plan in plans.items()}


def pruned_state(module: nn.Module, name: str, report: Report, gates: Gates) -> State:
    """What a checkpoint has to say beside the weights of a network that is cut for good."""
    gone = _with_copies(report.plan, name, _copies(module, gates))
    return {"network": name, "gone": gone.to_dict(), "plan": report.plan.to_dict(), "report": report.to_dict()}


def _copies(module: nn.Module, gates: Gates) -> list[tuple[str, str]]:
    """The known copies of the network, or of parts of it, that lie in the training module: part, and where they are."""
    inside = {id(m): where for where, m in module.named_modules()}
    return [(part, inside[id(copy)]) for part, copy in gates.copies if id(copy) in inside]


def _with_copies(plan: CutPlan, name: str, copies: list[tuple[str, str]]) -> CutPlan:
    """The plan for the training module, copies of the network in it included."""
    whole = plan.with_prefix(name)
    for part, where in copies:
        copy = plan.for_submodule(part).with_prefix(where)
        whole = CutPlan(whole.shapes | copy.shapes, whole.keep | copy.keep, whole.blocks)
    return whole


def load_checkpoint(model: Module, path: AnyPath) -> Module:
    """Load a checkpoint that Lightning wrote in a run with `GDPCallback`, and return the model, plain.

    From the middle of a run it is the network of that moment: what was closed is cut, open gates are folded into the
    weights. From after the cut it is the small network, which `save_pruned` then knows.

    Args:
        model: the LightningModule, freshly built: `LitModel(...)`.
        path: the checkpoint. Only tensors and plain containers are read (`weights_only=True`).

    Raises:
        GDPError: the file is damaged, holds other objects, was written without `GDPCallback`, or belongs to another
            model; the model is left as it was.
    """
    checkpoint = read_checked(path, "a checkpoint of tensors and plain containers")
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise GDPError(f"{str(path)!r} is no checkpoint of Lightning: it has no state_dict.")
    load_plain(model, checkpoint, str(path))
    return model


def load_plain(model: nn.Module, checkpoint: State, path: str) -> None:
    """`load_checkpoint` of a checkpoint that has been read already.

    Raises:
        GDPError: as there.
    """
    states, tensors = list(_saved(checkpoint)), fold_state_dict(checkpoint["state_dict"])
    if not states and len(tensors) == len(checkpoint["state_dict"]):
        raise GDPError(
            f"{path!r} says nothing of gdp. If it was written without GDPCallback, load it with "
            f"{type(model).__name__}.load_from_checkpoint; if it holds the weights of a small network alone, build "
            "that with gdp.load_pruned, and call load_state_dict."
        )
    getattr(model, "configure_model", lambda: None)()  # as load_from_checkpoint does
    was = [(tensor, tensor.detach().clone()) for tensor in named_tensors(model).values()]
    with ExitStack() as undo:
        undo.callback(lambda: [tensor.data.copy_(values) for tensor, values in was])
        for state in states:
            undo.callback(cut(model, CutPlan.from_dict(state["gone"])))
        content = checkpoint | {"state_dict": state_dict_for(model, tensors)}
        getattr(model, "on_load_checkpoint", lambda _: None)(content)
        strict = getattr(model, "strict_loading", True)
        try:
            check_fit(model, content["state_dict"], path, strict)
        except GDPError as error:
            if states:
                raise
            raise GDPError(
                f"{path!r} was written with save_weights_only=True, so it does not say which channels were cut by "
                f"then. Write checkpoints without that option. ({error})"
            ) from error
        model.load_state_dict(content["state_dict"], strict=strict)
        for state in states:
            if "closed" in state:
                undo.callback(cut(model, CutPlan.from_dict(state["closed"])))
            else:
                _remember(get_module(model, state["network"]), state)
        undo.pop_all()


def _remember(network: nn.Module, state: State) -> Report:
    report = Report.from_dict(state["report"], CutPlan.from_dict(state["plan"]))
    register_report(network, report)
    return report


def _saved(checkpoint: State) -> Iterator[State]:
    """What the GDPCallbacks of a run have left in its checkpoint."""
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, Mapping) and {"network", "gone"} <= state.keys():
            yield dict(state)


def cut_along(module: nn.Module, name: str, plan: CutPlan, copies: Iterable[Copy]) -> Undo:
    """Cut the training module by a plan for it, and the copies of its network `name` that lie outside of it."""
    inside = {id(m) for m in module.modules()}
    with ExitStack() as undo:
        undo.callback(cut(module, plan))
        for part, copy in copies:
            if id(copy) not in inside:
                undo.callback(cut(copy, plan.for_submodule(name).for_submodule(part)))
        return undo.pop_all().close


def fold_state_dict(state: State) -> State:
    """A state_dict under plain names, with its gates folded into the weights behind them."""
    state = plain_state_dict(state)
    folded = {name: value for name, value in state.items() if not name.endswith(GATE_SUFFIX)}
    for name, gate in state.items():
        if name.endswith(GATE_SUFFIX):
            weight = name.removesuffix(GATE_SUFFIX)
            if weight in folded:  # users leave out what they don't want to save
                folded[weight] = gated_weight(folded[weight], gate)
    return folded


def restore_run(
    checkpoint: State, saved: State, module: nn.Module, network: nn.Module, pruner: Pruner | None
) -> Report | None:
    """Make a run what it was when the checkpoint was written, before Lightning loads the weights.

    Args:
        checkpoint: of Lightning; a run without gdp is gone on with, so gates are added where there are none.
        saved: what the callback has left in it.
        module: the training module.
        network: the network in it.
        pruner: of this run; none if the network is small already.

    Returns:
        The report, if the checkpoint was written after the cut.

    Raises:
        GDPError: the checkpoint does not belong to this run.
    """
    if "report" in saved:
        return _resume_small(saved, module, network, pruner)
    if "pruner" in saved:
        if pruner is None:
            raise GDPError(
                "This network is small already, but the checkpoint is from before its channels were cut. Build the "
                "network anew, and resume with that one."
            )
        pruner.load_state_dict(saved["pruner"])
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


def _resume_small(saved: State, module: nn.Module, network: nn.Module, pruner: Pruner | None) -> Report:
    plan, copies = CutPlan.from_dict(saved["plan"]), [] if pruner is None else pruner.gates.copies
    if plan.blocks:
        raise GDPError(
            "A run can't be resumed after whole blocks have gone, as its optimizers knew their parameters. Load the "
            "network by gdp.load_checkpoint(LitModel(), path), and train it on without ckpt_path."
        )
    if pruner is not None:
        pruner.gates.withdraw()
    known = report_of(network)
    if known is not None and known.plan.to_dict() == saved["plan"]:
        return known
    cut_along(module, saved["network"], CutPlan.from_dict(saved["gone"]), copies)
    return _remember(network, saved)
