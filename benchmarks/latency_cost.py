"""Run `benchmarks.latency.cost` under the name that docs/latency_budget.md quotes."""

from benchmarks.latency.cost import main

if __name__ == "__main__":
    main()
