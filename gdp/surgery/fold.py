"""Fold gates into the weights behind them: the network computes what it did, without gates."""

from __future__ import annotations

from contextlib import ExitStack

from gdp.gates import Gates
from gdp.surgery.entries import Undo


def fold(gates: Gates) -> Undo:
    """Multiply the gates into the weights behind them and take them away; return what puts them back.

    Args:
        gates: of the network, copies of it included.
    """
    folded: set[tuple[int, int]] = set()
    weights = [(reader, reader.weight) for reader in gates.readers_and_copies]  # raises before anything is changed
    with ExitStack() as undo:
        undo.callback(gates.restore)  # after the weights
        for reader, weight in weights:
            if (id(weight), reader.dim) not in folded:  # a weight that layers share is folded once
                folded.add((id(weight), reader.dim))
                undo.callback(setattr, weight, "data", weight.data)
                weight.data = weight.data * reader.gate.to(weight.dtype)
        gates.unregister()
        return undo.pop_all().close


def fold_for_good(gates: Gates) -> None:
    """Multiply the gates into the weights behind them and take them away, in copies wherever they are as well.

    Args:
        gates: of the network.
    """
    gates.deep_copies.update(gates.readers)
    fold(gates)
    gates.deep_copies.fold(gates.readers)
