"""Cut a copy of a network as the network was cut."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from gdp.errors import GDPError
from gdp.gates import fold_copies
from gdp.report import register_report, reports_in
from gdp.surgery.cut import check_plan_fits, cut
from gdp.utils import get_module

Net = TypeVar("Net", bound=nn.Module)


def cut_like(copy: Net, network: nn.Module) -> Net:
    """Cut a copy that still has the dense shapes as its network was cut, in place, and return it.

    Copies that gdp knows (AveragedModel, weight averaging callbacks) need no such call. Others, an average of the
    weights in an object of your own for instance, become plain with the network and keep their shapes. What the
    network's closed channels are read by is zero in an average, so nothing is lost; of a copy that was made before they
    were closed, and left alone, the cut takes away what they did.

    Args:
        copy: made by copy.deepcopy of the network, or of a module around it, before it was cut. If it has gates, they
            are folded into its weights first.
        network: a network that was pruned in this process, or the module around it.

    Raises:
        GDPError: there is no pruned network, or the copy does not have the shapes it had; it is left as it was.

    >>> import copy, gdp, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = gdp.trace(net, torch.randn(1, 3, 8, 8))
    >>> gates = gdp.insert_gates(net, graph)
    >>> gates.close("0", [1, 2, 5])
    >>> mine = copy.deepcopy(net)
    >>> report = gdp.remove(net, graph, gates)
    >>> gdp.cut_like(mine, net)[2].in_channels
    5
    """
    reports = reports_in(network)
    if not reports:
        raise GDPError(
            f"Expected {type(network).__name__} to be or to hold a network that gdp pruned in this process, but found "
            "none. A network is pruned once fit or gdp.remove is through; pass it after that."
        )
    for name, report in reports.items():
        try:
            check_plan_fits(report.plan.with_prefix(name), copy)
        except GDPError as error:
            raise GDPError(
                f"This {type(copy).__name__} is no copy of the dense {type(network).__name__}, or it is cut already. "
                f"{error}"
            ) from error
    fold_copies(copy, ())
    for name, report in reports.items():
        cut(copy, report.plan.with_prefix(name))
        register_report(get_module(copy, name), report)
    return copy
