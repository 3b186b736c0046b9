"""TODO."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from gdp.utils import Inputs, in_mode

_SAME_SHAPE = {F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.normalize, F.softmax, F.dropout, F.relu}


_SAME_SHAPE |= {F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.relu6, F.hardtanh, F.leaky_relu, F.elu, torch.roll}


_MADE = {"empty", "rand", "randn", "ones", "full", "new_empty", "new_ones", "empty_like", "rand_like", "ones_like"}


_NOISE = {"mul", "mul_", "div", "div_", "add", "add_", "sub", "__mul__", "__imul__", "__add__", "__radd__", "__rmul__"}


_NOISE |= {"bernoulli", "bernoulli_", "uniform_", "floor_", "floor", "__truediv__", "to", "normal_", "type_as"}


class _CallRecorder(TorchFunctionMode):
    """The torch functions that a forward calls: name, parameters used, shapes of results; not those on counters.

    Random masks (stochastic depth) and their product with an activation are left out: they tie no channels.
    """

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[Any, ...]] = []
        self.noise: dict[int, Tensor] = {}  # held, so that no id is given out twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # on the meta device a result of the input's shape is as good as the input, and far cheaper
        out = args[0] if func in _SAME_SHAPE else func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        shapes = [tuple(t.shape) for t in tensors if t.is_floating_point()]
        name = getattr(func, "__name__", str(func))
        operands = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        noisy = [id(a) in self.noise for a in operands]
        if name in _MADE or (name in _NOISE and noisy and all(noisy)):
            self.noise |= {id(t): t for t in tensors}
        elif shapes and not (name in _NOISE and any(noisy) and shapes[0] in [tuple(a.shape) for a in operands]):
            used = [self.names[id(a)] for a in operands if id(a) in self.names]
            self.calls.append((name, used, shapes))
        return out


def differs_in_training(model: nn.Module, inputs: Inputs) -> bool:
    """Whether `forward` calls other functions in train mode than in eval mode (auxiliary heads).

    Runs on the meta device: nothing is computed, and neither parameters nor buffers are touched. Where that fails, the
    answer is yes, which costs a second export and no more.
    """
    # every slot of every module once: functional_call leaves meta tensors behind in a slot that it is given twice
    once: dict[int, Tensor] = {}
    state = {
        f"{prefix}.{name}".lstrip("."): once.setdefault(id(t), t.to("meta"))
        for prefix, module in model.named_modules()
        for name, t in (*module._parameters.items(), *module._buffers.items())
        if t is not None
    }
    metas = tree_map(lambda t: t.to("meta") if isinstance(t, Tensor) else t, inputs)
    calls = []
    for training in (False, True):
        with in_mode(model, training), torch.no_grad(), torch.device("meta"):
            try:
                with _CallRecorder({id(t): name for name, t in state.items()}) as recorder:
                    functional_call(model, state, metas, tie_weights=False)
            except Exception:
                return True
            calls.append(recorder.calls)
    return bool(calls[0] != calls[1])
