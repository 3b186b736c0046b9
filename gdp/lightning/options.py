"""What a user asks of a pruning run, validated in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from gdp.errors import GDPError
from gdp.methods import PruningMethod, resolve_method
from gdp.selection import check_target, check_width_options
from gdp.tracing import check_ignore


@dataclass(frozen=True)
class PruningOptions:
    """The arguments of `GDPCallback`, which describes them.

    Raises:
        GDPError: one of them is out of range or of another type.
    """

    target_flops: float
    module: str | None = None
    ignore: Sequence[str | type] = ()
    method: str | PruningMethod = "polar"
    blocks: bool = False
    min_channels: int | float = 1
    round_to: int = 1
    shrink: str | int = "epoch"
    example: Any = None

    def __post_init__(self) -> None:
        check_target(self.target_flops)
        check_ignore(self.ignore)
        check_width_options(self.min_channels, self.round_to)
        if not isinstance(self.blocks, bool):
            raise GDPError(f"Expected `blocks` to be True or False, but got {self.blocks!r}.")
        steps = isinstance(self.shrink, int) and not isinstance(self.shrink, bool) and self.shrink >= 1
        if self.shrink not in ("epoch", "end") and not steps:
            raise GDPError(
                f"Expected `shrink` to be 'epoch', 'end' or a number of optimizer steps, but got {self.shrink!r}."
            )
        _check_example(self.example)
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "method", resolve_method(self.method))
        if self.pruning_method.regrows and steps:
            raise GDPError(
                f"{type(self.pruning_method).__name__} lets channels come back until its window ends, so they can't be "
                f"cut every {self.shrink} steps before. Use shrink='epoch', which waits for that, or shrink='end'."
            )

    @property
    def pruning_method(self) -> PruningMethod:
        """The method, whichever way it was named."""
        return resolve_method(self.method)


def _check_example(example: Any) -> None:
    """Check that an example input of the network holds numbers.

    Args:
        example: one tensor, or a tuple or list of positional inputs; None if there is none.

    Raises:
        GDPError: it is neither, or of the device 'meta'.
    """
    if example is None:
        return
    tensors = [t for t in tree_leaves(example) if isinstance(t, Tensor)]
    if not isinstance(example, Tensor | list | tuple) or not tensors or any(t.is_meta for t in tensors):
        raise GDPError(
            "Expected `example` to be what the network's forward takes, one tensor with numbers or a tuple of inputs "
            f"(torch.randn(1, 64)), but got {'a tensor on the device meta' if tensors else repr(example)}."
        )
