"""Find the groups whose cut the user's code can't follow, by trying parts of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from gdp.graph import ChannelGraph
from gdp.surgery.dry_run import DryRunFailure


@dataclass(frozen=True)
class Bisection:
    """Try cuts of parts of the groups.

    Attributes:
        graph: the channel groups.
        attempt: cuts the groups of these names, and returns the failure if that fails.
        caller: what can't follow, in words: "forward".
        suspects: groups that are tried apart from the rest.
    """

    graph: ChannelGraph
    attempt: Callable[[list[str]], DryRunFailure | None]
    caller: str
    suspects: Collection[str] = ()

    def failing_groups(self, names: list[str], failure: DryRunFailure) -> dict[str, str]:
        """Return the groups on which a cut fails, with the reason.

        Args:
            names: of the groups on which a cut has failed.
            failure: of that cut.
        """
        if len(names) == 1:
            return {names[0]: f"{self.caller} can't follow a cut: {_explain(failure, self.graph[names[0]].lines)}"}

        # groups that are suspected, or on whose line of source the error was raised, apart from the rest; else halves
        found: dict[str, str] = {}
        apart = [n for n in names if n in self.suspects]
        if not 0 < len(apart) < len(names):
            apart = [n for n in names if failure.line and failure.line in self.graph[n].lines]
        halves = (names[: len(names) // 2], names[len(names) // 2 :])
        for part in (apart, [n for n in names if n not in apart]) if 0 < len(apart) < len(names) else halves:
            outcome = self.attempt(part)
            if outcome is not None:
                found |= self.failing_groups(part, outcome)

        # where no part fails by itself, all are to blame
        together = f"{self.caller} can't follow a cut of these groups together: {_explain(failure, ())}"
        return found or dict.fromkeys(names, together)


def _explain(failure: DryRunFailure, lines: tuple[str, ...]) -> str:
    """Return the reason with the line that raised the error, and at most two lines where a size may be written.

    Args:
        failure: of a cut.
        lines: of the user's source that hold a number of channels, as the trace has found them.
    """
    where = f", raised at {failure.line}" if failure.line else ""
    written = [line for line in lines if line != failure.line]
    return failure.reason + where + (f"; a size may be written at {' or at '.join(written[:2])}" if written else "")
