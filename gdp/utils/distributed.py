"""What processes that train together have to agree on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def broadcast_from_rank_zero(found: Tensor) -> Tensor:
    """What the first process found: sums on a GPU differ in the last bits from rank to rank, decisions must not."""
    if not _is_distributed():
        return found
    shared = found.to(torch.uint8) if found.dtype == torch.bool else found.clone()
    dist.broadcast(shared, 0)
    return shared.to(found.dtype)


def all_ranks(flag: Tensor) -> Tensor:
    """Whether a bool is true in every process."""
    if not _is_distributed():
        return flag
    shared = flag.to(torch.uint8)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return shared.bool()
