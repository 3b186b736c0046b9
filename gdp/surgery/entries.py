"""The kept entries of a tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Undo = Callable[[], None]


def keep_entries(tensor: Tensor, keep: dict[int, tuple[int, ...]]) -> Tensor:
    """Return the kept entries of a tensor, in the memory format it had.

    Args:
        tensor: of any shape.
        keep: dimension -> indices along it that stay, ascending.
    """
    out = tensor
    for dim, kept in keep.items():
        out = out.index_select(dim, torch.tensor(kept, device=tensor.device))
    channels_last = (
        tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
