"""Record a pruning: its history, its tables and its picture."""

from gdp.report.history import BINS, LIMIT, History
from gdp.report.registry import register_report, report_of, reports_in
from gdp.report.report import Report

__all__ = ["BINS", "LIMIT", "History", "Report", "register_report", "report_of", "reports_in"]
