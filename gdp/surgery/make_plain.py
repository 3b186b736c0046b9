"""Take the gates of an interrupted run out of a network, without the objects of that run."""

from __future__ import annotations

from torch import nn

from gdp.gates import fold_copies, gates_in
from gdp.surgery.fold import fold_for_good
from gdp.surgery.keep_folded import keep_folded


def make_plain(model: nn.Module) -> None:
    """Take all gates out of a network; it computes what it did.

    That is for what an interrupted run leaves (an exception, Ctrl-C), where its callback or pruner is gone, and for a
    gated network that was unpickled. Open gates are folded into the weights behind them. What reads closed channels is
    zero afterwards; `gdp.remove_zeros` cuts them out. Where channels have been cut already, the network can be saved by
    `gdp.save_pruned`, and pruning it further begins from what it costs then.

    Args:
        model: a network, or a module that holds some.

    >>> import gdp, torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> gdp.insert_gates(net, gdp.trace(net, torch.randn(1, 3, 8, 8))).close("0", [1])
    >>> gdp.make_plain(net)
    >>> float(net[2].weight[:, 1].abs().sum()), len(list(net.buffers()))
    (0.0, 0)
    """
    for gates in gates_in(model):
        if not gates.acting:
            gates.withdraw()
        elif bool(gates.removed.any()):
            keep_folded(gates.model, gates.graph, gates, "Its run was interrupted.")
        else:
            fold_for_good(gates)
    fold_copies(model, ())
