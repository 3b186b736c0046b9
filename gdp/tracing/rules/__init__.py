"""Operator rules: what every ATen operator does with channels."""

from gdp.tracing.rules.table import OperatorRule, rule_for

__all__ = ["OperatorRule", "rule_for"]
