"""Save and load a pruned network as the plan of its cut, its tensors and its report, without pickled modules."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any, TypeVar

from torch import Tensor, nn

from gdp.errors import GDPError
from gdp.graph import CutPlan
from gdp.layers import layers_around_cut, layers_in, rebuild
from gdp.report import Report, register_report, reports_in
from gdp.surgery import check_plan_fits, cut
from gdp.utils import (
    AnyPath,
    plain_state_dict,
    read_checked,
    state_dict_for,
    under_plain_names,
    unwrap,
    write_atomically,
)

FORMAT = 1
Net = TypeVar("Net", bound=nn.Module)


def save_pruned(model: nn.Module, path: AnyPath, report: Report | None = None) -> None:
    """Write a pruned network, or a module that holds one, to a file that `load_pruned` rebuilds it from.

    Layers of `gdp.layers` are rebuilt, too, whether they took their places before or after the cut; a network that
    holds some may also not have been pruned at all. The file appears under its name only when it is complete.

    Args:
        model: a network that was pruned in this process, or a module with one pruned network inside.
        path: of the file; one that is there already is replaced.
        report: needed only for a copy of the pruned network, which gdp can't recognise: `callback.report`.

    Raises:
        GDPError: no pruned network is found, a layer was cut both before and after it was swapped, or the file can't
            be written; what was there before is untouched then.
    """
    # the pruned network: `model` itself, or the one module inside of it that has a report
    pruned = reports_in(model) if report is None else {"": report}
    if len(pruned) > 1 or not (pruned or layers_in(model)):
        raise GDPError(
            f"Expected {type(model).__name__} to be or to hold one network that gdp pruned in this process, but found "
            f"{len(pruned)}. A network is pruned once fit or gdp.remove is through; for a copy of one, pass the report "
            "of its removal: save_pruned(model, path, report)."
        )

    # its plan, which has to fit the shapes that the parameters have now
    prefix, found = next(iter(pruned.items()), ("", None))
    plan = CutPlan({}, {}) if found is None else found.plan.with_prefix(prefix)
    before, after = layers_around_cut(model, plan.shapes)
    parameters = under_plain_names(model, model.named_parameters(remove_duplicate=False))
    planned = {id(parameters[name]): name for name in (*plan.shapes, *plan.keep) if name in parameters}
    changed = [name for name in planned.values() if plan.shape(name) != tuple(parameters[name].shape)]
    if changed and not plan.blocks:
        raise GDPError(
            f"{type(model).__name__} was cut further after its report was made ({changed[0]} has changed), probably by "
            "a run that was interrupted. Finish that run before saving: trainer.fit once more, or gdp.remove."
        )

    # the file: strings, numbers and tensors
    state = plain_state_dict(model, model.state_dict())
    content = {
        "gdp": FORMAT,
        "plan": plan.to_dict(),
        "state_dict": {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in state.items()},
        "report": None if found is None else found.to_dict(),
    }
    if before or after:
        content["layers"] = [before, after]
    write_atomically(content, path)


def load_pruned(model: Net, path: AnyPath) -> Net:
    """Cut a freshly built network as the saved one was, load its tensors, and return it.

    Convs are swapped for layers of `gdp.layers` where the saved network had them.

    Args:
        model: the dense network, from its own constructor.
        path: a file written by `save_pruned`.

    Raises:
        GDPError: the file is missing, truncated or no gdp file, or it belongs to another network; the network is
            left as it was.
    """
    if not isinstance(model, nn.Module):
        raise GDPError(f"Expected the network as its constructor builds it, but got {type(model).__name__}.")
    plan, state, report, (before, after) = _read(path)
    with ExitStack() as undo:
        undo.enter_context(rebuild(model, before))
        check_plan_fits(plan, model)
        undo.callback(cut(model, plan))
        undo.enter_context(rebuild(model, after))
        check_state_fits(model, state, os.fspath(path))
        model.load_state_dict(state_dict_for(model, state))
        undo.pop_all()
    if report is not None:
        register_report(unwrap(model), report)
    return model


def check_state_fits(model: nn.Module, state: dict[str, Tensor], path: str, strict: bool = True) -> None:
    """Check that tensors have the shapes of a network that was just cut.

    Args:
        model: the network.
        state: a state_dict, under the names of any compilation of the network.
        path: of the file that the tensors are from, for the message.
        strict: names must be the same; else only the shapes of those that both have.

    Raises:
        GDPError: a tensor has another shape, is missing, or is one too many.
    """
    expected_shapes, shapes = (
        {k: tuple(v.shape) for k, v in plain_state_dict(model, tensors).items() if isinstance(v, Tensor)}
        for tensors in (model.state_dict(), state)
    )
    names = expected_shapes.keys() | shapes.keys() if strict else expected_shapes.keys() & shapes.keys()
    for name in sorted(names):
        if expected_shapes.get(name) != shapes.get(name):
            expected, held = expected_shapes.get(name, "absent"), shapes.get(name, "no such tensor")
            raise GDPError(
                f"{path!r} does not fit {type(model).__name__}: {name} should be {expected}, but it holds "
                f"{held}. Build the same architecture that was pruned."
            )


def _read(path: AnyPath) -> tuple[CutPlan, dict[str, Tensor], Report | None, list[dict[str, Any]]]:
    """Return the plan, the state_dict, the report and the layers before and after the cut in a file of `save_pruned`.

    Args:
        path: of the file.

    Raises:
        GDPError: it is missing, truncated, or not a file of this format.
    """
    name, content = os.fspath(path), read_checked(path, "a pruned network of gdp.save_pruned")
    if not isinstance(content, dict) or content.get("gdp") != FORMAT:
        what = f"format {content['gdp']!r}" if isinstance(content, dict) and "gdp" in content else "something else"
        raise GDPError(f"{name!r} holds {what}, not a pruned network of gdp format {FORMAT} (see gdp.save_pruned).")
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise GDPError(f"{name!r} holds no state_dict.")
    plan, report, layers = (
        CutPlan.from_dict(content.get("plan")),
        content.get("report"),
        content.get("layers", [{}, {}]),
    )
    if not isinstance(layers, list) or len(layers) != 2 or not all(isinstance(found, dict) for found in layers):
        raise GDPError(f"{name!r} holds something else where it should describe layers of gdp.layers.")
    return plan, state, None if report is None else Report.from_dict(report, plan), layers
