"""What a whole training run costs: dense, gdp, gdp that cuts as it goes, Torch-Pruning; writes docs/training_cost.md.

`python -m benchmarks.training_cost` trains all four side by side, and makes the document from saved runs.
"""
