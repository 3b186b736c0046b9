"""Define ResidualBranch: a branch of a residual block that can be removed as a whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ResidualBranch:
    """Branch of a residual block that is removed as a whole once no channel that its last layer reads is open.

    With all of these channels closed, the branch adds a constant per channel to the shortcut.

    Attributes:
        name: plain name of the module that holds the branch.
        groups: names of all channel groups inside the branch.
        reads: names of those among them that its last layer reads.
        last_layer: plain name of the last conv or linear.
        norm: plain name of the batch norm right behind it; empty if there is none.
        inner_layers: plain names of all other layers of the branch.
    """

    name: str
    groups: tuple[str, ...]
    reads: tuple[str, ...]
    last_layer: str
    norm: str
    inner_layers: tuple[str, ...]

    def with_prefix(self, prefix: str) -> ResidualBranch:
        """Return the same branch for a larger network that has this one as a submodule.

        Args:
            prefix: plain name of the submodule.
        """

        def prefixed(name: str) -> str:
            """Return a name as the larger network has it; empty stays empty."""
            return f"{prefix}.{name}" if name else name

        inner_layers = tuple(map(prefixed, self.inner_layers))
        return ResidualBranch(
            prefixed(self.name), self.groups, self.reads, prefixed(self.last_layer), prefixed(self.norm), inner_layers
        )
