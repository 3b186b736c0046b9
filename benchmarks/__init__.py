"""What gdp is measured by: a folder per topic, `python -m benchmarks.<topic>`; what several topics need is in `common`.

A topic imports from `benchmarks.common`, `lightning_modules`, gdp and itself, never from another topic. The modules
beside the folders are command lines that documents quote; each runs a module of a topic.
"""
