"""Which network is more accurate at equal cost: gdp's, a thin one, Torch-Pruning's or OTO's; writes docs/results.md.

`python -m benchmarks.accuracy --data DATA` trains and writes rows into a CSV file, `benchmarks.accuracy.document` makes
tables and a picture of them. `benchmarks.accuracy.digits` is the small comparison behind `make digits-table`.
"""
