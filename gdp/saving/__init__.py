"""Files: pruned networks, and what gdp writes into checkpoints."""

from gdp.saving.checkpoint import State, cut_along, load_checkpoint, load_plain, plain, pruned, resume, snapshot
from gdp.saving.pruned_file import load_pruned, save_pruned

__all__ = [
    "State",
    "cut_along",
    "load_checkpoint",
    "load_plain",
    "load_pruned",
    "plain",
    "pruned",
    "resume",
    "save_pruned",
    "snapshot",
]
