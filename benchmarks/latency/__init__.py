"""Of the FLOPs removed, how much inference time is saved? Writes docs/latency.md and docs/latency_budget.md.

`python -m benchmarks.latency` times dense and cut networks, `python -m benchmarks.latency.cost` compares budgets in
milliseconds with budgets in FLOPs.
"""
