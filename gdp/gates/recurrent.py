"""Gates of recurrent layers: their input is gated, not the weights that read it.

cuDNN wants all weights of such a layer in one piece of memory, which a product with gates is not part of. The weights
of both directions read the same channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gdp.utils import GATE_SUFFIX

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)


@cache
def recurrent_bases(cls: type[nn.RNNBase], tensor: str) -> tuple[type, ...]:
    """Return the bases of a gated recurrent layer, by which torch's own `forward` is given a gated input.

    That of a subclass, which may do more with its input, goes on being called with the input as it is.

    Args:
        cls: class of the layer.
        tensor: name of one of its gated weights, beside which the gate lies.
    """
    torchs: Any = next(c for c in cls.__mro__ if c in RECURRENT)

    def forward(self: nn.Module, input: Tensor | PackedSequence, hx: Any = None) -> Any:  # noqa: A002  torch's names
        gate = self._buffers[tensor + GATE_SUFFIX]
        if gate is None:
            return torchs.forward(self, input, hx)
        if isinstance(input, PackedSequence):
            return torchs.forward(self, input._replace(data=_gated(input.data, gate)), hx)
        return torchs.forward(self, _gated(input, gate), hx)

    behind = type(f"Gated{torchs.__name__}", (torchs,), {"forward": forward})
    return (behind,) if cls is torchs else (cls, behind)


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    """Return an input whose channels come last, multiplied with their gates.

    Args:
        x: of any type, shape (..., channels).
        gate: float32, of as many elements as there are channels.
    """
    return (x * gate.flatten()).to(x.dtype)
