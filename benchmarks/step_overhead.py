"""Run `benchmarks.step` under the name that docs/step_overhead.md quotes."""

from benchmarks.step.__main__ import main

if __name__ == "__main__":
    main()
