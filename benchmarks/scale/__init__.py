"""How gdp's costs grow with the size of the network and with the number of processes; writes docs/scale.md.

`python -m benchmarks.scale` measures both parts.
"""
