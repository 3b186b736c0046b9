"""Remember the report of every network that was cut in this process."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from gdp.report.report import Report
from gdp.utils import under_plain_names, unwrap

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


def reports_in(model: nn.Module) -> dict[str, Report]:
    """Return the reports of all networks in a module that were cut in this process, by plain names; "" is the module.

    Args:
        model: any module. A network in it that has several names is there under the first.
    """
    modules = under_plain_names(model, model.named_modules())
    first = {id(unwrap(module)): name for name, module in reversed(modules.items())}
    found = ((name, report_of(modules[name])) for name in first.values())
    return {name: report for name, report in found if report is not None}
