"""Remember the report of every network that was cut in this process."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from gdp.report.report import Report
from gdp.utils import unwrap

_reports: WeakKeyDictionary[nn.Module, Report] = WeakKeyDictionary()  # nothing of gdp is stored on the network itself


def register_report(model: nn.Module, report: Report) -> None:
    """Keep the report of a network that was just cut for as long as the network lives.

    Args:
        model: the network, compiled or not.
        report: of its removal; it takes the place of an earlier one.
    """
    _reports[unwrap(model)] = report


def report_of(model: nn.Module) -> Report | None:
    """Return the report of a network that was cut in this process; None if it was not.

    Args:
        model: the network itself; a copy of it is not recognised.
    """
    return _reports.get(unwrap(model))
