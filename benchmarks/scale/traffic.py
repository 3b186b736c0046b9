"""Count what a training by DistributedDataParallel hands to collectives."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


@dataclass
class Traffic:
    """Count the bytes handed to collectives, while this is used as a context.

    Attributes:
        run: whose bytes are counted now.
        bytes: of every run, by who hands them over.
        calls: their number.
    """

    run: str = ""
    bytes: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    calls: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))

    def add(self, sender: str, tensors: list[Tensor]) -> None:
        """Count tensors that the sender ("gradients", "buffers" or "choices") hands over."""
        self.bytes[self.run][sender] += sum(t.numel() * t.element_size() for t in tensors)
        self.calls[self.run][sender] += 1

    def __enter__(self) -> Traffic:
        self._was = broadcast, coalesced = dist.broadcast, dist._broadcast_coalesced

        def counted_broadcast(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.add("choices", [tensor])  # nothing but gdp calls it in this training
            return broadcast(tensor, *args, **kwargs)

        def counted_coalesced(group: Any, tensors: list[Tensor], *args: Any, **kwargs: Any) -> Any:
            self.add("buffers", tensors)
            return coalesced(group, tensors, *args, **kwargs)

        dist.broadcast, dist._broadcast_coalesced = counted_broadcast, counted_coalesced
        return self

    def __exit__(self, *_: object) -> None:
        dist.broadcast, dist._broadcast_coalesced = self._was

    def reduce(self, group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Reduce gradients as DDP does, and count them."""
        self.add("gradients", [bucket.buffer()])
        return allreduce_hook(group, bucket)
