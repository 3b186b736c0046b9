"""How gates get into a run: from a Trainer and its training module to a `Pruner`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from gdp.errors import GDPError
from gdp.gates import fold_copies
from gdp.lightning.network import example_inputs
from gdp.lightning.unsupported import is_finetuned, trains_in_this_process
from gdp.methods import PruningMethod
from gdp.pruning import Pruner
from gdp.report import Report
from gdp.selection import WidthConstraints, latency_model
from gdp.surgery import cuttable_optimizers, fold, freeze_uncuttable_groups, freeze_untrained_readers, remove
from gdp.tracing import trace


def build_pruner(
    trainer: Any,
    module: nn.Module,
    name: str,
    network: nn.Module,
    target: float,
    ignore: Sequence[str | type],
    gate: PruningMethod,
    blocks: bool,
    widths: tuple[int | float, int],
) -> Pruner:
    """Trace the network, `name` in the training module, try every cut, and put gates in.

    Args:
        trainer: a Trainer of either import family.
        module: the training module.
        name, network: what find_network says.
        target, ignore, gate, blocks: as GDPCallback takes them.
        widths: its min_channels and round_to.

    Raises:
        GDPError: nothing can be pruned, the target is out of reach, or there is no example input.
    """
    array: Any = getattr(module, "example_input_array", None)
    batch = None if array is not None else _first_batch(trainer)
    # names may be given as the training module has them
    ignore = [p.removeprefix(f"{name}.") if isinstance(p, str) and name else p for p in ignore]
    graph = trace(network, example_inputs(module, name, array, batch), ignore, blocks)
    if not is_finetuned(trainer):  # else what is frozen now is trained later
        graph = freeze_untrained_readers(network, graph)
    graph = freeze_uncuttable_groups(network, graph)
    cost = latency_model(network, graph, trainer.strategy.root_device) if gate.cost == "latency" else None
    pruner = Pruner(network, graph, target, method=gate, constraints=WidthConstraints.of(graph, *widths), cost=cost)
    channels, stay = sum(g.size for g in graph.groups), len(graph.frozen)
    parts = "1 part stays" if stay == 1 else f"{stay} parts stay"
    rank_zero_info(
        f"gdp: pruning {name or type(network).__name__} to {target:.0%} of "
        f"{f'{graph.flops.dense:,} FLOPs' if cost is None else 'its measured time'}; "
        f"{channels} channels in {len(graph.groups)} groups can go, {parts}."
    )
    return pruner


def _first_batch(trainer: Any) -> Any:
    """The first training batch, in the main process, leaving the random generators as they were."""
    with isolate_rng():
        loader = trainer.fit_loop._data_source.dataloader()
        if type(loader).__name__ != "CombinedLoader":  # which there is in both import families
            loader = CombinedLoader(loader, "max_size_cycle")
        for batch, _, _ in loader:
            return batch
    raise GDPError(
        "The training loader is empty, so there is no example input to trace the network with. Check the loader, or "
        "set `self.example_input_array` in the LightningModule."
    )


def abandon(pruner: Pruner) -> None:
    """Another network is trained from now on; the one of an interrupted run becomes plain, and computes what it did."""
    fold(pruner.gates)
    rank_zero_warn(
        "gdp: the network of an interrupted run is left as it was, without gates. What reads closed channels is zero; "
        "gdp.remove_zeros(network, example_input) cuts them out."
    )


def finish_gates(trainer: Any, pruner: Pruner) -> None:
    """Training is over; if the window is not, say so, and close what the target asks for."""
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
    """Fold what is open and cut what is closed; none if there is nothing to report, since the network is as it was.

    Copies that the user has made of the gated network, in the training module, become plain as well.

    Raises:
        GDPError: the cut is not exact; network and gates are as they were.
    """
    gates = pruner.gates
    if pruner.steps == 0:
        if not bool(gates.removed.any()):
            gates.withdraw()
        rank_zero_warn("gdp: no training step was made, so nothing is known about the channels; nothing was removed.")
        return None
    finish_gates(trainer, pruner)  # a run that was resumed at its very end has seen no on_train_end
    report = None
    if trains_in_this_process(trainer):
        report = remove(gates.model, pruner.graph, gates, cuttable_optimizers(gates, trainer.optimizers))
    else:
        fold(gates)
        _say_what_comes_back(trainer)
    others = [getattr(callback, "pruner", None) for callback in trainer.callbacks]
    fold_copies(
        module, [r for p in others if isinstance(p, Pruner) and p is not pruner for r in p.gates.readers_and_copies]
    )
    return report


def _say_what_comes_back(trainer: Any) -> None:
    rank_zero_warn(
        f"gdp: {type(trainer.strategy).__name__} trained a copy of the network in other processes, from which only "
        "weights of the same shapes come back. What reads closed channels is zero now; "
        "gdp.remove_zeros(network, example_input) cuts them out. strategy='ddp' needs no such call."
    )
