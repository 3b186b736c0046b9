"""TODO."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ResidualBranch:
    """The branch of a residual block that goes as a whole once no channel that its last conv reads is open.

    What the branch still adds then is a constant per channel.

    Attributes:
        name: the module that holds the branch.
        groups: all channel groups inside the branch.
        reads: those among them that its last conv reads.
        last: name of the last conv or linear.
        norm: name of the batch norm right behind it; empty if there is none.
        silent: names of all other layers of the branch.
    """

    name: str
    groups: tuple[str, ...]
    reads: tuple[str, ...]
    last_layer: str
    norm: str
    inner_layers: tuple[str, ...]

    def with_prefix(self, prefix: str) -> ResidualBranch:
        """The same block in a network that is the child `prefix` of a larger one."""

        def longer(name: str) -> str:
            return f"{prefix}.{name}" if name else name

        silent = tuple(map(longer, self.inner_layers))
        return ResidualBranch(
            longer(self.name), self.groups, self.reads, longer(self.last_layer), longer(self.norm), silent
        )
