"""Beginning and end of a run: from a Trainer and its module to a `Pruner`, and from gates to a small network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from gdp.errors import GDPError
from gdp.gates import fold_copies, gates_in
from gdp.lightning.compat import rank_zero_info, rank_zero_warn, trains_in_this_process
from gdp.lightning.first_batch import first_batch
from gdp.lightning.network import example_inputs
from gdp.lightning.options import PruningOptions
from gdp.lightning.unsupported import is_finetuned
from gdp.pruning import Pruner
from gdp.report import Report, register_report, report_of
from gdp.selection import WidthConstraints, latency_model
from gdp.surgery import (
    cuttable_optimizers,
    fold_for_good,
    freeze_uncuttable_groups,
    freeze_untrained_readers,
    keep_folded,
    make_plain,
    remove_undoably,
)
from gdp.tracing import trace_channels
from gdp.utils import as_inputs, check_one_device, first_line


def build_pruner(
    trainer: Any, module: nn.Module, name: str, network: nn.Module, options: PruningOptions, undo: ExitStack
) -> Pruner:
    """Trace the network, try every cut, and put gates in; or go on with the gates of an interrupted run.

    Args:
        trainer: of either family.
        module: the training module.
        name: plain name of the network in it.
        network: the network.
        options: what the user asked for.
        undo: takes what leaves the source of the training batches as it was.

    Raises:
        GDPError: nothing can be pruned, the target is out of reach, or there is no example input.
    """
    check_one_device(module, network)
    taken_over = take_over(network, options)
    if taken_over is not None:
        return taken_over

    # what the network gets to see
    array: Any = getattr(module, "example_input_array", None)
    if options.example is not None:
        inputs = as_inputs(network, options.example)
    else:
        inputs = example_inputs(module, name, array, None if array is not None else first_batch(trainer, undo))

    # what can be cut; names may be given as the training module has them
    ignore = [p.removeprefix(f"{name}.") if isinstance(p, str) and name else p for p in options.ignore]
    graph = trace_channels(network, inputs, ignore, options.blocks)
    if not is_finetuned(trainer):  # else what is frozen now is trained later
        graph = freeze_untrained_readers(network, graph)
    graph = freeze_uncuttable_groups(network, graph)

    # how far
    method = options.pruning_method
    cost = latency_model(network, graph, trainer.strategy.root_device) if method.cost == "latency" else None
    constraints = WidthConstraints.of(graph, options.min_channels, options.round_to)
    pruner = Pruner(network, graph, options.target_flops, method=method, constraints=constraints, cost=cost)

    channels, stay = sum(g.size for g in graph.groups), len(graph.frozen)
    parts = "1 part stays" if stay == 1 else f"{stay} parts stay"
    rank_zero_info(
        f"gdp: pruning {name or type(network).__name__} to {options.target_flops:.0%} of "
        f"{f'{graph.flops.dense:,} FLOPs' if cost is None else 'its measured time'}; "
        f"{channels} channels in {len(graph.groups)} groups can go, {parts}."
    )
    return pruner


def take_over(network: nn.Module, options: PruningOptions) -> Pruner | None:
    """Go on with a network that another callback has gated in a run that was interrupted; it may be gone.

    A network that was not cut yet becomes plain, and computes what it did. One that was cut in part keeps its gates.

    Args:
        network: that is to be pruned.
        options: what the user asks for now.

    Returns:
        The pruner of a network that was cut in part, at the beginning of its run; None if the network is plain.

    Raises:
        GDPError: the target is out of reach, or counts times, which can't be measured of the whole network any more.
    """
    found = gates_in(network)
    gates = next((gates for gates in found if gates.model is network and bool(gates.removed.any())), None)
    if gates is None:
        acted = any(other.acting for other in found)
        make_plain(network)
        if acted:
            rank_zero_warn(
                "gdp: an interrupted run has left gates in this network. They are folded into its weights, so it "
                "computes what it did, and pruning begins anew."
            )
        return None
    if options.pruning_method.cost == "latency":
        raise GDPError(
            "An interrupted run has cut this network in part, so the time that the whole network takes can't be "
            "measured any more. Prune it from what it costs now: gdp.make_plain(network), then trainer.fit."
        )
    constraints = WidthConstraints.of(gates.graph, options.min_channels, options.round_to)
    method, target = options.pruning_method, options.target_flops
    pruner = Pruner(network, gates.graph, target, method=method, constraints=constraints, gates=gates)
    restart(pruner)
    rank_zero_warn("gdp: what must stay (`ignore`, `blocks`) is what it was in the interrupted run.")
    return pruner


def restart(pruner: Pruner) -> None:
    """Begin anew with a network that an interrupted run has cut in part, and say so.

    Args:
        pruner: of the network.
    """
    pruner.restart()
    rank_zero_warn(
        "gdp: an interrupted run has cut this network in part. Pruning begins anew from here; the target is a fraction "
        "of the FLOPs before that run. If it is to be one of what the network costs now: gdp.make_plain(network) first."
    )


def is_in(module: nn.Module, pruner: Pruner) -> bool:
    """Return whether the network of a pruner lies in a module, and still has its gates.

    Args:
        module: the training module.
        pruner: maybe of an interrupted run.
    """
    return pruner.gates.inserted and any(inside is pruner.gates.model for inside in module.modules())


def abandon(pruner: Pruner) -> None:
    """Make the network of an interrupted run plain, since another one is trained now; it computes what it did.

    Args:
        pruner: of the interrupted run.
    """
    if not pruner.gates.inserted:  # somebody has done it
        return
    fold_for_good(pruner.gates)
    rank_zero_warn(
        "gdp: the network of an interrupted run is left as it was, without gates. What reads closed channels is zero; "
        "gdp.remove_zeros(network, example_input) cuts them out."
    )


def finish_gates(trainer: Any, pruner: Pruner) -> None:
    """Close what the target asks for if training is over before the window is, and say so.

    Args:
        trainer: of either family.
        pruner: of the run.
    """
    if not pruner.done and not getattr(trainer, "fast_dev_run", False):
        rank_zero_warn(
            f"gdp: training ended after {pruner.steps} steps, before the window for pruning did (step "
            f"{pruner.window.end} of {pruner.total_steps}). The channels over the target are closed at once, "
            "without the training that would make up for it; expect a loss of accuracy. Let early stopping begin "
            "after the window, or end the window earlier: GDPCallback(method=gdp."
            f"{type(pruner.method).__name__}(end=...))."
        )
    pruner.finish()


def finalize(trainer: Any, module: nn.Module, pruner: Pruner) -> Report | None:
    """Fold what is open and cut what is closed; return the record.

    Copies that the user has made of the gated network, in the training module, become plain as well.

    Args:
        trainer: of either family.
        module: the training module.
        pruner: of the run.

    Returns:
        None if there is nothing to report, since the network is as it was.
    """
    gates = pruner.gates
    if not gates.inserted:
        rank_zero_warn("gdp: other code has taken the gates out of the network by now; it is left as it is.")
        return report_of(gates.model)
    if pruner.steps == 0:
        if not bool(gates.removed.any()):
            gates.withdraw()
        rank_zero_warn("gdp: no training step was made, so nothing is known about the channels; nothing was removed.")
        return None
    finish_gates(trainer, pruner)  # a run that was resumed at its very end has seen no on_train_end
    report = None
    if trains_in_this_process(trainer):
        report = _remove_or_keep(trainer, pruner)
    else:
        fold_for_good(gates)
        _explain_what_comes_back(trainer)
    pruners = [getattr(callback, "pruner", None) for callback in trainer.callbacks]
    gated = [other.gates for other in pruners if isinstance(other, Pruner) and other.gates.inserted]
    with never_fatal("a copy of the network could not be made plain"):
        fold_copies(module, [reader for kept_gates in gated for reader in kept_gates.readers_everywhere])
    return report


@contextmanager
def never_fatal(what: str) -> Iterator[None]:
    """Warn of an error instead of raising it: training is over, and nothing of it may be lost.

    Args:
        what: has failed, in words.
    """
    try:
        yield
    except Exception as error:  # code of the user's may have changed anything
        rank_zero_warn(f"gdp: {what} ({type(error).__name__}: {first_line(error)}).")


def _remove_or_keep(trainer: Any, pruner: Pruner) -> Report | None:
    """Cut what is closed in all processes; where that fails in one, leave the network as trained in all, and say why.

    Training is over: whatever fails here, nothing of it may be lost.

    Args:
        trainer: of either family.
        pruner: of the run.

    Returns:
        None if the gates had to stay.
    """
    gates, network, report, undo, reason = pruner.gates, pruner.gates.model, None, None, ""
    try:
        optimizers = cuttable_optimizers(gates, trainer.optimizers)
        report, undo = remove_undoably(network, pruner.graph, gates, optimizers)
    except Exception as error:  # forward may raise anything
        reason = str(error) if isinstance(error, GDPError) else f"{type(error).__name__}: {first_line(error)}."
    agreed = trainer.strategy.reduce_boolean_decision(report is not None)
    if report is not None and agreed:
        register_report(network, report)
        with never_fatal("a copy of the network could not be made plain"):
            gates.deep_copies.fold(gates.readers)
        return report
    if undo is not None:
        undo()
    reason = reason or "It could not be cut in another process."
    try:
        report = keep_folded(network, pruner.graph, gates, reason)
    except Exception as error:  # other code has changed the layers
        rank_zero_warn(
            f"gdp: no channel was cut when training was over. {reason} Its gates can't be folded into its weights "
            f"either ({type(error).__name__}: {first_line(error)}), so they stay, and it computes what it did."
        )
        return None
    rank_zero_warn(f"gdp: no channel was cut when training was over. {report.failure}")
    return report


def _explain_what_comes_back(trainer: Any) -> None:
    rank_zero_warn(
        f"gdp: {type(trainer.strategy).__name__} trained a copy of the network in other processes, from which only "
        "weights of the same shapes come back. What reads closed channels is zero now; "
        "gdp.remove_zeros(network, example_input) cuts them out. strategy='ddp' needs no such call."
    )
