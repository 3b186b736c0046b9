"""Find out whether a network calls other functions while it trains, without computing anything.

Networks with auxiliary heads do; such a network is exported in train mode as well, so that these heads are cut along.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gdp.tracing.shared_caches import shared_caches_cleaned
from gdp.utils import Inputs, arguments, in_mode

# functions whose result has the shape of their first argument
_SAME_SHAPE = {F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.normalize, F.softmax, F.dropout, F.relu}
_SAME_SHAPE |= {F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.relu6, F.hardtanh, F.leaky_relu, F.elu, torch.roll}

# names of functions that make new tensors, as random masks are made
_MADE = {"empty", "rand", "randn", "ones", "full", "new_empty", "new_ones", "empty_like", "rand_like", "ones_like"}

# names of functions that compute masks, or apply them
_MASKING = {
    *("mul", "mul_", "div", "div_", "add", "add_", "sub", "__mul__", "__imul__", "__add__", "__radd__", "__rmul__"),
    *("bernoulli", "bernoulli_", "uniform_", "floor_", "floor", "__truediv__", "to", "normal_", "type_as"),
}


class _CallRecorder(TorchFunctionMode):
    """Record the torch functions that a forward calls.

    Functions without a floating result (on counters) are left out. So are random masks (stochastic depth) and their
    product with an activation, since they join no channels.

    Args:
        names: id of a parameter or buffer -> its name.

    Attributes:
        names: as given.
        calls: name of the function, names of the parameters used, shapes of the results, per call.
        masks: id of a tensor that is a mask -> the tensor; held, so that no id is given out twice.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[Any, ...]] = []
        self.masks: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # call the function; on the meta device a result of the input's shape is as good as the input, and far cheaper
        out = args[0] if func in _SAME_SHAPE else func(*args, **(kwargs or {}))

        # tell masks, and functions that apply them, from the rest
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        shapes = [tuple(t.shape) for t in tensors if t.is_floating_point()]
        name = getattr(func, "__name__", str(func))
        operands = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        is_mask = [id(a) in self.masks for a in operands]
        if name in _MADE or (name in _MASKING and is_mask and all(is_mask)):
            self.masks |= {id(t): t for t in tensors}
        elif shapes and not (name in _MASKING and any(is_mask) and shapes[0] in [tuple(a.shape) for a in operands]):
            used = [self.names[id(a)] for a in operands if id(a) in self.names]
            self.calls.append((name, used, shapes))
        return out


def differs_in_training(model: nn.Module, inputs: Inputs) -> bool:
    """Return whether `forward` calls other functions in train mode than in eval mode (auxiliary heads).

    It runs on the meta device: nothing is computed, and neither parameters nor buffers are touched. Where that fails,
    the answer is True, which costs a second export and nothing else.

    Args:
        model: the network.
        inputs: positional inputs, as `forward` takes them.
    """
    # every parameter and buffer on the meta device, under every name that it has. A module that has several names is
    # named once: functional_call would not put back a slot that it is given under two names
    once: dict[int, Tensor] = {}
    state = {
        f"{prefix}.{name}".lstrip("."): once.setdefault(id(t), t.to("meta"))
        for prefix, module in model.named_modules()
        for name, t in (*module._parameters.items(), *module._buffers.items())
        if t is not None
    }
    metas = tree_map(lambda t: t.to("meta") if isinstance(t, Tensor) else t, inputs)

    # run forward in both modes
    calls = []
    for training in (False, True):
        caches = shared_caches_cleaned(model)
        with in_mode(model, training), torch.no_grad(), caches, torch.device("meta"):
            try:
                with _CallRecorder({id(t): name for name, t in state.items()}) as recorder:
                    functional_call(model, state, *arguments(model, metas), tie_weights=False)
            except Exception:
                return True
            calls.append(recorder.calls)
    return bool(calls[0] != calls[1])
