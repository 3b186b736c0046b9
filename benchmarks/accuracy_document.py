"""Run `benchmarks.accuracy.document` under the name that docs/results.md quotes."""

from benchmarks.accuracy.document import main

if __name__ == "__main__":
    main()
