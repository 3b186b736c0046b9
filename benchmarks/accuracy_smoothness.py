"""Run `benchmarks.accuracy.smoothness` under the name that docs/method.md quotes."""

from benchmarks.accuracy.smoothness import main

if __name__ == "__main__":
    main()
