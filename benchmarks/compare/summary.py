"""What the runs of one method at one target come to: means, spreads, medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.compare.processes import FAILED

Row = dict[str, str]  # of the CSV file
SETTING = ("model", "size", "epochs")


@dataclass(frozen=True)
class Summary:
    """Hold what the runs of one method at one target come to.

    Attributes:
        way: the method.
        tests: test accuracies in percent, of the runs that succeeded.
        remains: mean fraction of the dense FLOPs that remains.
        training: mean training FLOPs, against dense training of as many steps.
        peak_mib: median of the processes' peak memory.
        risen_mib: median of what this is above the process's memory when the run began.
        step: seconds of a step against dense: median of the runs in which it was measured; None if in none.
        ahead: by how many points the runs are more accurate than those of `polar` with the same seeds, on average; None
            if there are none.
        failures: why runs failed.
    """

    way: str
    tests: tuple[float, ...]
    remains: float
    training: float
    peak_mib: float
    risen_mib: float
    step: float | None
    ahead: float | None
    failures: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The mean test accuracy in percent; below all others if no run succeeded."""
        return statistics.mean(self.tests) if self.tests else float("-inf")

    @property
    def spread(self) -> float:
        """The standard deviation of the test accuracies over seeds; 0 with less than two."""
        return statistics.stdev(self.tests) if len(self.tests) > 1 else 0.0

    @property
    def accuracy(self) -> str:
        """Mean, standard deviation and number of runs, as they stand in a table; or why there is none."""
        if not self.tests:
            return f"failed: {self.failures[0]}"
        runs = f"{len(self.tests)} of {len(self.tests) + len(self.failures)}" if self.failures else f"{len(self.tests)}"
        spread = f" ± {self.spread:.1f}" if len(self.tests) > 1 else ""
        return f"{self.mean:.1f}{spread} ({runs})"


def summarized(way: str, rows: Iterable[Row], polar: Iterable[Row] = ()) -> Summary:
    """Return what the runs of one method at one target come to.

    Args:
        way: the method.
        rows: its runs.
        polar: the runs of `polar` at the same target.
    """
    every = list(rows)
    good = [row for row in every if not row[FAILED]]
    reference = {row["seed"]: float(row["test"]) for row in polar if not row[FAILED]}
    leads = [float(row["test"]) - reference[row["seed"]] for row in good if row["seed"] in reference]
    ratios = [float(row["step_ratio"]) for row in good if row["step_ratio"]]
    return Summary(
        way,
        tuple(float(row["test"]) for row in good),
        _of(statistics.mean, [float(row["remains"]) for row in good]),
        _of(statistics.mean, [float(row["training_flops"]) / float(row["steps"]) for row in good]),
        _of(statistics.median, [float(row["peak_mib"]) for row in good]),
        _of(statistics.median, [float(row["peak_mib"]) - float(row["before_mib"]) for row in good]),
        statistics.median(ratios) if ratios else None,
        statistics.mean(leads) if leads else None,
        tuple(row[FAILED] for row in every if row[FAILED]),
    )


def _of(function: Callable[[list[float]], float], values: list[float]) -> float:
    return function(values) if values else float("nan")


def settings(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Return the rows that are compared among themselves, by network, size and epochs.

    Args:
        rows: of the CSV file.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in SETTING), []).append(row)
    return found


def targets(rows: Iterable[Row]) -> list[str]:
    """Return the targets of the methods, the largest first.

    Args:
        rows: of one setting.
    """
    return sorted({row["target"] for row in rows if row["way"] != "dense"}, key=float, reverse=True)


def ranking(rows: Iterable[Row], target: str) -> list[Summary]:
    """Return all methods at one target, the most accurate first, and dense training beside them.

    Args:
        rows: of one setting.
        target: as it stands in the rows.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["way"] == "dense" or row["target"] == target:
            found.setdefault(row["way"], []).append(row)
    polar = found.get("polar", [])
    return sorted((summarized(way, runs, polar) for way, runs in found.items()), key=lambda s: (-s.mean, s.way))
