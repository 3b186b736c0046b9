"""TODO."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from gdp.report.report import Report

_reports: WeakKeyDictionary[nn.Module, Report] = WeakKeyDictionary()  # nothing of gdp is stored on the network itself


def register_report(model: nn.Module, report: Report) -> None:
    """Keep the report of a network that was just cut for as long as the network lives."""
    _reports[model] = report


def report_of(model: nn.Module) -> Report | None:
    """The report of a network that was cut in this process, if it was."""
    return _reports.get(model)
