"""What a pass has shown, written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdp.methods import Activation, Seen


def seen(*layers: tuple[Tensor, Sequence[int]], labels: Sequence[int] | None = None) -> Seen:
    """A pass in which layers have read these tensors, whose channels along the second dimension have these numbers."""
    found = [Activation(str(i), tensor, 1, torch.tensor(channel)) for i, (tensor, channel) in enumerate(layers)]
    return Seen(tuple(found), None, None if labels is None else torch.tensor(labels))
