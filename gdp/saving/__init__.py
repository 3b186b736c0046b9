"""Files: pruned networks, and what gdp writes into checkpoints."""

from gdp.saving.checkpoint import (
    CheckpointState,
    fold_state_dict,
    gated_state,
    load_checkpoint,
    load_plain,
    pruned_state,
)
from gdp.saving.pruned_file import load_pruned, save_pruned

__all__ = [
    "CheckpointState",
    "fold_state_dict",
    "gated_state",
    "load_checkpoint",
    "load_plain",
    "load_pruned",
    "pruned_state",
    "save_pruned",
]
