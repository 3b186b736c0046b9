"""Which networks gdp can prune, how exactly, and how quickly it traces them; writes docs/coverage.md.

`python -m benchmarks.coverage` runs gdp and Torch-Pruning on every model of torchvision, the backbones of its detection
models and timm's families, each in a process of its own. `--suite packages` runs gdp on networks of other packages.
"""
