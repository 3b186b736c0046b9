"""The state of a pruning run, without Lightning."""

from gdp.pruning.forward_loss import forward_loss_added
from gdp.pruning.observation import check_observation
from gdp.pruning.pruner import Pruner

__all__ = ["Pruner", "check_observation", "forward_loss_added"]
