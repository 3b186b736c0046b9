"""Make all processes of a distributed run agree on a tensor."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

Found = TypeVar("Found")


def _is_distributed() -> bool:
    """Return whether a process group of torch.distributed is up."""
    return dist.is_available() and dist.is_initialized()


def broadcast_from_rank_zero(value: Tensor) -> Tensor:
    """Return the tensor of the first process in every process.

    Sums on a GPU differ in the last bits from rank to rank; decisions that are made from them must not differ.

    Args:
        value: a tensor of the same shape and type in every process.

    Returns:
        A copy with the numbers of rank 0; `value` itself in a run of one process.
    """
    if not _is_distributed():
        return value
    shared = value.to(torch.uint8) if value.dtype == torch.bool else value.clone()
    dist.broadcast(shared, 0)
    return shared.to(value.dtype)


def mean_of_all_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, the same in every one.

    Args:
        value: floating, of the same shape in every process.
    """
    if not _is_distributed():
        return value
    shared = value.clone()
    dist.all_reduce(shared)
    return broadcast_from_rank_zero(shared / dist.get_world_size())


def all_ranks(flag: Tensor) -> Tensor:
    """Return whether a bool is true in every process.

    Args:
        flag: bool of shape ().

    Returns:
        Bool of shape (), the same in every process.
    """
    if not _is_distributed():
        return flag
    shared = flag.to(torch.uint8)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return shared.bool()


def of_all_ranks(value: Found) -> list[Found]:
    """Return what every process has found, in the order of their ranks.

    Args:
        value: of this process; any object that pickle knows.
    """
    if not _is_distributed():
        return [value]
    found: list[Found] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
