"""What a user asks of a pruning run, validated in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gdp.errors import GDPError
from gdp.methods import MethodName, PruningMethod, resolve_method
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
    method: MethodName | PruningMethod = "polar"
    blocks: bool = False
    min_channels: int | float = 1
    round_to: int = 1
    shrink: str | int = "epoch"

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
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "method", resolve_method(self.method))

    @property
    def pruning_method(self) -> PruningMethod:
        """The method, whichever way it was named."""
        return resolve_method(self.method)
