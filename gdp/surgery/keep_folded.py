"""Leave a trained network plain but not cut, where its cut can't be verified: nothing of the training is lost."""

from __future__ import annotations

from torch import nn

from gdp.gates import Gates
from gdp.graph import ChannelGraph
from gdp.report import Report, register_report
from gdp.surgery.fold import fold_for_good
from gdp.surgery.remove import counts_without, dense_parameters, report_of_cut, with_unknown_flops


def keep_folded(model: nn.Module, graph: ChannelGraph, gates: Gates, reason: str) -> Report:
    """Fold the gates into the weights for good, keep the report for the network, and return it.

    The network keeps its sizes, or those that cuts in training have left, and computes what it did. What reads closed
    channels is zero.

    Args:
        model: the network that holds the gates.
        graph: its channel groups.
        gates: of the network.
        reason: why it can't be cut, in words.
    """
    fold_for_good(gates)
    failure = (
        f"{reason} {type(model).__name__} computes what it did: its gates are folded into its weights, and what reads "
        "closed channels is zero. gdp.remove_zeros(network, example_input, ignore=[...]) cuts them out."
    )
    try:
        graph = with_unknown_flops(model, graph, gates)
    except Exception:  # forward may raise anything
        failure += " Its FLOPs are those that gdp predicts, since fvcore can't count them."
    cost = dense_parameters(model, graph), graph.flops.count(counts_without(gates, gates.removed))
    report = report_of_cut(model, graph, gates, gates.removed, cost, gates.difference, failure)
    register_report(model, report)
    return report
