"""What several topics need: Markdown, the machine's description, timing, memory, figures, Torch-Pruning's set-up.

Import from its modules: benchmarks.accuracy.oto runs where gdp can't be installed.
"""
