"""Checkpoints of a run: the network as it was then, plain, whether channels were cut by that time or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.files import AnyPath, read
from gdp.gates import Gates
from gdp.names import module_of, plain_state, state_for
from gdp.plan import Plan
from gdp.pruner import Pruner
from gdp.readers import SUFFIX, gated_weight
from gdp.report import Report
from gdp.shrink import planned
from gdp.store import check_fit, recall, remember
from gdp.surgery import cut, select

State = dict[str, Any]
Module = TypeVar("Module", bound=nn.Module)


def snapshot(module: nn.Module, name: str, gates: Gates) -> State:
    """What a checkpoint has to say beside the weights of a gated network, `name` in the training module.

    "gone" is the plan by which it was cut so far, "closed" the plan by which it would be cut now.
    """
    gone = Plan.of(gates.graph, gates.indices(gates.gone))
    closed = planned(gates, gates.raw.cpu() == 0)
    inside = {id(m): where for where, m in module.named_modules()}
    copies = [(part, inside[id(copy)]) for part, copy in gates.copies if id(copy) in inside]
    plans = {"gone": gone, "closed": closed}
    return {"network": name} | {key: _everywhere(plan, name, copies).to_dict() for key, plan in plans.items()}


def pruned(name: str, report: Report) -> State:
    """What a checkpoint has to say beside the weights of a network that is cut for good."""
    plan = report.plan
    return {"network": name, "gone": plan.under(name).to_dict(), "plan": plan.to_dict(), "report": report.to_dict()}


def _everywhere(plan: Plan, name: str, copies: list[tuple[str, str]]) -> Plan:
    """The plan for the training module, copies of the network in it included."""
    whole = plan.under(name)
    for part, where in copies:
        copy = plan.part(part).under(where)
        whole = Plan(whole.shapes | copy.shapes, whole.keep | copy.keep, whole.blocks)
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
    checkpoint = read(path, "a checkpoint of tensors and plain containers")
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise GDPError(f"{str(path)!r} is no checkpoint of Lightning: it has no state_dict.")
    load_plain(model, checkpoint, str(path))
    return model


def load_plain(model: nn.Module, checkpoint: State, path: str) -> None:
    """`load_checkpoint` of a checkpoint that has been read already.

    Raises:
        GDPError: as there.
    """
    states, tensors = list(_saved(checkpoint)), plain(checkpoint["state_dict"])
    if not states and len(tensors) == len(checkpoint["state_dict"]):
        raise GDPError(
            f"{path!r} says nothing of gdp; it was written without GDPCallback. Load it with "
            f"{type(model).__name__}.load_from_checkpoint."
        )
    was = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    undo = ExitStack()
    try:
        undo.callback(model.load_state_dict, was)
        for state in states:
            undo.callback(cut(model, Plan.from_dict(state["gone"])))
        check_fit(model, tensors, path)
        model.load_state_dict(state_for(model, tensors))
        for state in states:
            if "closed" in state:
                undo.callback(cut(model, Plan.from_dict(state["closed"])))
            else:
                _remember(module_of(model, state["network"]), state)
    except GDPError as error:
        undo.close()
        if states:
            raise
        raise GDPError(
            f"{path!r} was written with save_weights_only=True, so it does not say which channels were cut by then. "
            f"Write checkpoints without that option. ({error})"
        ) from error
    except Exception:
        undo.close()
        raise


def _remember(network: nn.Module, state: State) -> Report:
    report = Report.from_dict(state["report"], Plan.from_dict(state["plan"]))
    remember(network, report)
    return report


def _saved(checkpoint: State) -> Iterator[State]:
    """What the GDPCallbacks of a run have left in its checkpoint."""
    for key, state in checkpoint.get("callbacks", {}).items():
        if str(key).startswith("GDPCallback") and isinstance(state, Mapping) and "gone" in state:
            yield dict(state)


def plain(state: State) -> State:
    """A state_dict under plain names, with its gates folded into the weights behind them."""
    state = plain_state(state)
    folded = {name: value for name, value in state.items() if not name.endswith(SUFFIX)}
    for name, gate in state.items():
        if name.endswith(SUFFIX):
            weight = name.removesuffix(SUFFIX)
            folded[weight] = gated_weight(folded[weight], gate)
    return folded


def resume(
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
        if pruner is not None:
            pruner.gates.withdraw()
        known = recall(network)
        if known is not None and known.plan.to_dict() == saved["plan"]:
            return known
        cut(module, Plan.from_dict(saved["gone"]))
        return _remember(network, saved)
    if "pruner" in saved:
        if pruner is None:
            raise GDPError(
                "This network is small already, but the checkpoint is from before its channels were cut. Build the "
                "network anew, and resume with that one."
            )
        pruner.load_state_dict(saved["pruner"])
    elif any(name.endswith(SUFFIX) for name in checkpoint["state_dict"]):
        raise GDPError(
            "The checkpoint has gates but says nothing of this GDPCallback: it was written with another `module`, or "
            "with save_weights_only=True. Resume with the `module` of that run, from a whole checkpoint."
        )
    else:
        for key in {"state_dict", "current_model_state"} & checkpoint.keys():
            gates = {k: torch.ones_like(gate) for k, gate in module.state_dict().items() if k.endswith(SUFFIX)}
            checkpoint[key] = gates | state_for(module, checkpoint[key])
        return None
    checkpoint["state_dict"] = state_for(module, checkpoint["state_dict"])
    return None


def load(checkpoint: State, saved: State, module: nn.Module, closed: Tensor | None, path: str) -> None:
    """Make a checkpoint and the network that is to be evaluated fit each other, before Lightning loads the weights.

    Args:
        checkpoint, saved, module: as in `resume`.
        closed: the channels that were cut in this process, one bool per channel; None if none were.
        path: of the checkpoint.

    Raises:
        GDPError: the network has become small, and other channels were open when the checkpoint was written.
    """
    if closed is None and "gone" in saved and recall(module_of(module, saved["network"])) is None:
        load_plain(module, checkpoint, path)
        checkpoint["state_dict"] = module.state_dict()
        return
    state = plain(checkpoint["state_dict"])
    if "pruner" in saved:
        plan = Plan.from_dict(saved["closed"])
        if plan.blocks or closed is None or not torch.equal(saved["pruner"]["raw"].cpu() == 0, closed):
            raise GDPError(
                "This checkpoint was written before the channels were cut and does not fit the small network; nothing "
                "was loaded. Use the network as it is: trainer.test(model, ...). Without a model, Trainer.test takes "
                "the best checkpoint. gdp.load_checkpoint(LitModel(), path) loads it as the network it was."
            )
        state = {name: select(value, plan.keep.get(name, {})) for name, value in state.items()}
    if closed is not None:
        check_fit(module, state, path)
        checkpoint["state_dict"] = state_for(module, state)
