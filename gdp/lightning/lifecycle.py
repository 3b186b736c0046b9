"""How gates get into a run: from a Trainer and its training module to a `Pruner`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from gdp.errors import GDPError
from gdp.example import example_inputs
from gdp.family import GateFamily
from gdp.latency import latency_model
from gdp.preflight import preflight, trained_readers_only
from gdp.progress import is_finetuned
from gdp.pruner import Pruner
from gdp.trace import trace
from gdp.widths import Widths


def start_pruning(
    trainer: Any,
    module: nn.Module,
    name: str,
    network: nn.Module,
    target: float,
    ignore: Sequence[str | type],
    gate: GateFamily,
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
        graph = trained_readers_only(network, graph)
    graph = preflight(network, graph)
    cost = latency_model(network, graph, trainer.strategy.root_device) if gate.cost == "latency" else None
    pruner = Pruner(network, graph, target, gate=gate, widths=Widths.of(graph, *widths), cost=cost)
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
