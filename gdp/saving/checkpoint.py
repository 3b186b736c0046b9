"""What gdp writes into checkpoints of a run, and how a checkpoint becomes a plain network."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from gdp.errors import GDPError
from gdp.gates import Gates, gated_weight
from gdp.graph import CutPlan
from gdp.report import Report, register_report
from gdp.saving.pruned_file import check_state_fits
from gdp.surgery import cut, plan_for
from gdp.utils import (
    GATE_SUFFIX,
    AnyPath,
    get_module,
    named_tensors,
    read_checked,
    state_dict_for,
    under_plain_names,
)

VERSION = 1
State = dict[str, Any]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class CheckpointState:
    """What gdp writes into a checkpoint for one network, beside its weights.

    Attributes:
        stage: "gated", from inside a run; or "pruned", from after the cut.
        network: plain name of the network in the training module.
        removed: the plan by which the training module was cut so far, copies of the network in it included.
        closed: the plan by which it would be cut now (gated).
        pruner: state of the pruner (gated).
        counter: state of the step counter (gated).
        plan: the plan from the dense network to the small one (pruned).
        report: the record of the removal (pruned).
    """

    stage: Literal["gated", "pruned"]
    network: str
    removed: State
    closed: State | None = None
    pruner: State | None = None
    counter: State | None = None
    plan: State | None = None
    report: State | None = None

    def to_dict(self) -> State:
        """Return plain containers of tensors, strings and numbers."""
        return {"gdp": VERSION, **vars(self)}

    @classmethod
    def from_dict(cls, state: Any) -> CheckpointState | None:
        """Read back what `to_dict` wrote.

        Args:
            state: what a callback has left in a checkpoint.

        Returns:
            None if it is no callback of gdp.

        Raises:
            GDPError: it was written by another version.
        """
        if not isinstance(state, Mapping) or "gdp" not in state:
            return None
        fields = {key: value for key, value in state.items() if key != "gdp"}
        if state["gdp"] != VERSION or not fields.keys() <= cls.__dataclass_fields__.keys():
            raise GDPError(
                f"The checkpoint was written by another version of gdp (format {state['gdp']!r}; this one reads "
                f"{VERSION}). Resume with the version that wrote it."
            )
        return cls(**fields)

    def to_report(self) -> Report:
        """Return the record of the removal; of a pruned network only."""
        return Report.from_dict(self.report, CutPlan.from_dict(self.plan))


def gated_state(module: nn.Module, name: str, gates: Gates, pruner: State, counter: State) -> CheckpointState:
    """Return what a checkpoint has to say of a gated network.

    Args:
        module: the training module.
        name: plain name of the network in it.
        gates: of the network.
        pruner: state of the pruner.
        counter: state of the step counter.
    """
    removed = CutPlan.of(gates.graph, gates.indices(gates.removed))
    closed = plan_for(gates, gates.gate_param.cpu() == 0)
    plans = [_with_copies(plan, module, name, gates).to_dict() for plan in (removed, closed)]
    return CheckpointState("gated", name, plans[0], plans[1], pruner, counter)


def pruned_state(module: nn.Module, name: str, gates: Gates, report: Report) -> CheckpointState:
    """Return what a checkpoint has to say of a network that is cut for good.

    Args:
        module: the training module.
        name: plain name of the network in it.
        gates: that the network had.
        report: the record of the removal.
    """
    removed = _with_copies(report.plan, module, name, gates).to_dict()
    return CheckpointState("pruned", name, removed, plan=report.plan.to_dict(), report=report.to_dict())


def _with_copies(plan: CutPlan, module: nn.Module, name: str, gates: Gates) -> CutPlan:
    """Return the plan for the training module, known copies of the network in it included.

    Args:
        plan: for the network.
        module: the training module.
        name: plain name of the network in it.
        gates: of the network; they know its copies.
    """
    inside = {id(m): where for where, m in under_plain_names(module, module.named_modules()).items()}
    whole = plan.with_prefix(name)
    for part, copy in gates.copies:
        if id(copy) in inside:
            own = plan.for_submodule(part).with_prefix(inside[id(copy)])
            whole = CutPlan(whole.shapes | own.shapes, whole.keep | own.keep, whole.blocks)
    return whole


def saved_states(checkpoint: State) -> list[CheckpointState]:
    """Return what the GDPCallbacks of a run have left in its checkpoint.

    Args:
        checkpoint: of Lightning.

    Raises:
        GDPError: it was written by another version.
    """
    found = (CheckpointState.from_dict(state) for state in checkpoint.get("callbacks", {}).values())
    return [state for state in found if state is not None]


def fold_state_dict(state: State) -> State:
    """Return a state_dict with its gates folded into the weights behind them.

    Args:
        state: of a gated network, or of a plain one.
    """
    folded = {name: value for name, value in state.items() if not name.endswith(GATE_SUFFIX)}
    for name, gate in state.items():
        if name.endswith(GATE_SUFFIX):
            weight = name.removesuffix(GATE_SUFFIX)
            if weight in folded:  # users leave out what they don't want to save
                folded[weight] = gated_weight(folded[weight], gate)
    return folded


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
    """Do what `load_checkpoint` does with a checkpoint that has been read already.

    Args:
        model: the LightningModule, freshly built.
        checkpoint: of Lightning.
        path: of the checkpoint, for messages.

    Raises:
        GDPError: as there.
    """
    states, tensors = saved_states(checkpoint), fold_state_dict(checkpoint["state_dict"])
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
            undo.callback(cut(model, CutPlan.from_dict(state.removed)))
        content = checkpoint | {"state_dict": state_dict_for(model, tensors)}
        getattr(model, "on_load_checkpoint", lambda _: None)(content)
        strict = getattr(model, "strict_loading", True)
        try:
            check_state_fits(model, content["state_dict"], path, strict)
        except GDPError as error:
            if states:
                raise
            raise GDPError(
                f"{path!r} was written with save_weights_only=True, so it does not say which channels were cut by "
                f"then. Write checkpoints without that option. ({error})"
            ) from error
        model.load_state_dict(content["state_dict"], strict=strict)
        for state in states:
            if state.stage == "gated":
                undo.callback(cut(model, CutPlan.from_dict(state.closed)))
            else:
                register_report(get_module(model, state.network), state.to_report())
        undo.pop_all()
