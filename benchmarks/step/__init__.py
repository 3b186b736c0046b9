"""What pruning costs a training step, and what tracing costs before the first; writes docs/step_overhead.md.

`python -m benchmarks.step` compares steps, `python -m benchmarks.step.trace_time` compares `gdp.trace` with
torch.export.
"""
