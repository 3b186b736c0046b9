"""Refuse networks whose weights are no plain tensors: scripted, quantized, or prepared to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gdp.errors import GDPError

# where the classes of modules come from that quantize, or hold quantized weights
_QUANTIZED = (
    *("torch.ao.nn.quantized", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat", "torch.ao.nn.intrinsic.quantized"),
    *("torch.ao.nn.sparse", "torch.ao.quantization.fake_quantize", "torch.ao.quantization.observer"),
    *("torchao.", "bitsandbytes."),
)
_FLOAT = ("FloatFunctional", "FXFloatFunctional")  # which lie among them, and quantize nothing


def check_plain(model: nn.Module) -> None:
    """Check that a network consists of Python modules with plain tensors.

    Args:
        model: the network.

    Raises:
        GDPError: it is scripted, or it is quantized in part, or a parameter is a tensor of another kind.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise GDPError(
            f"Expected a network of Python modules, but got {type(model).__name__}, which torch.jit has scripted or "
            "traced. Give the Python module that it was made of; script the small network when training is over."
        )
    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule) and _quantizes(type(module)):
            raise GDPError(
                f"{name or 'The network'} is a {type(module).__module__.partition('.')[0]} {type(module).__name__}, "
                "which quantizes: channels of such networks can't be cut exactly. Prune first, then quantize the small "
                "network."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if _is_special(tensor):
            raise GDPError(
                f"{name} is a {type(tensor).__name__} of {tensor.dtype}, not a plain tensor of floats, and can't be "
                "cut exactly. Prune first, then quantize or distribute the small network."
            )


def _quantizes(cls: Any) -> bool:
    """Return whether modules of a class quantize what they compute, or observe it in order to.

    Args:
        cls: class of a module.
    """
    return any(base.__module__.startswith(_QUANTIZED) and base.__name__ not in _FLOAT for base in cls.__mro__)


def _is_special(tensor: Tensor) -> bool:
    """Return whether a tensor computes in its own way: quantized weights, weights in parts on several devices.

    Args:
        tensor: a parameter or buffer.
    """
    return tensor.is_quantized or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
