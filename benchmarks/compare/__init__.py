"""Which of gdp's methods is how good, at what cost, and which of them say the same; writes docs/methods.md.

`make compare DATA=...` trains every method and writes a row per run into a CSV file; `benchmarks.compare.similarity`
asks all methods about one trained network. `benchmarks.compare.document` makes the page and its pictures from both.
"""
