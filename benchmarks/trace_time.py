"""Run `benchmarks.step.trace_time` under the name that docs/results.md quotes."""

from benchmarks.step.trace_time import main

if __name__ == "__main__":
    main()
