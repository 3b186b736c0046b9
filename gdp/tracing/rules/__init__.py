"""Hold the operator rules: one function per kind of ATen operator, which says what happens to channels."""

from gdp.tracing.rules.table import OperatorRule, rule_for

__all__ = ["OperatorRule", "rule_for"]
