"""TODO."""

from __future__ import annotations

from dataclasses import dataclass

from gdp.utils import plain_name


@dataclass(frozen=True)
class Block:
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
    last: str
    norm: str
    silent: tuple[str, ...]

    def plain(self) -> Block:
        """The same block without the names that torch.compile adds."""
        groups, reads, silent = (tuple(map(plain_name, names)) for names in (self.groups, self.reads, self.silent))
        return Block(plain_name(self.name), groups, reads, plain_name(self.last), plain_name(self.norm), silent)

    def under(self, prefix: str) -> Block:
        """The same block in a network that is the child `prefix` of a larger one."""

        def longer(name: str) -> str:
            return f"{prefix}.{name}" if name else name

        silent = tuple(map(longer, self.silent))
        return Block(longer(self.name), self.groups, self.reads, longer(self.last), longer(self.norm), silent)
