"""The state of a pruning run, without Lightning."""

from gdp.pruning.pruner import Pruner

__all__ = ["Pruner"]
