"""Files: pruned networks, and what gdp writes into checkpoints."""

from gdp.saving.checkpoint import (
    State,
    cut_along,
    fold_state_dict,
    gated_state,
    load_checkpoint,
    load_plain,
    pruned_state,
    restore_run,
)
from gdp.saving.pruned_file import load_pruned, save_pruned

__all__ = [
    "State",
    "cut_along",
    "fold_state_dict",
    "gated_state",
    "load_checkpoint",
    "load_plain",
    "load_pruned",
    "pruned_state",
    "restore_run",
    "save_pruned",
]
