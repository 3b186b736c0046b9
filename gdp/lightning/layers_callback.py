"""LayersCallback: train layers of gdp.layers with the losses of their papers, without touching `training_step`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdp.errors import GDPError
from gdp.layers import CORRELATION, EVERY, SPARSITY, THRESHOLD, LinearConv2d, StripeConv2d, check_not_negative, penalty
from gdp.lightning.compat import Callback
from gdp.lightning.step_counter import scale_of_gradients
from gdp.lightning.unsupported import check_no_lbfgs, check_setup
from gdp.utils import add_gradient

if TYPE_CHECKING:
    import pytorch_lightning as pl


class LayersCallback(Callback):
    """Add the losses of `LinearConv2d` and `StripeConv2d` to the gradients, once per optimizer step.

    They depend on parameters alone, so their gradient is added where those of the batches are complete: after processes
    and accumulated batches were reduced and the gradient scaler was undone, and before gradients are clipped. That is
    the same as adding `gdp.layers.penalty` to the loss of every `training_step`.

    After every batch, entries of skeletons below the threshold are set to 0. Own: an entry at 0 gets no gradient any
    more, and its momentum and moments are 0, so that a stripe that has gone stays away.

    With `GDPCallback`, put this callback behind it: gdp reads the gradients of the batches then.

    Args:
        correlation: weight of `sum |corrcoef(B) - I|` of every LinearConv2d (arXiv 1907.11432).
        every: optimizer steps between two of them (in the public code: batches); the first step has one.
        sparsity: weight of the L1 norm of every skeleton (SWP, NeurIPS 2020).
        threshold: entries of skeletons that are smaller are set to 0.

    Raises:
        GDPError: here, if an argument is out of range; before the first training step, if there are no such layers, or
            the strategy splits them among processes.
    """

    def __init__(
        self,
        correlation: float = CORRELATION,
        every: int = EVERY,
        sparsity: float = SPARSITY,
        threshold: float = THRESHOLD,
    ) -> None:
        super().__init__()
        check_not_negative("correlation", correlation)
        check_not_negative("sparsity", sparsity)
        check_not_negative("threshold", threshold)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise GDPError(f"Expected `every` to be a number of optimizer steps, at least 1, but got {every!r}.")
        self.correlation, self.every, self.sparsity, self.threshold = correlation, every, sparsity, threshold
        self._steps: Counter[int] = Counter()  # of every optimizer that trains such layers, by its number

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that there are layers to train, and that they can be."""
        check_setup(trainer)
        check_no_lbfgs(trainer)
        if not any(True for _ in _layers(pl_module)):
            raise GDPError(
                f"{type(pl_module).__name__} has neither a LinearConv2d nor a StripeConv2d, and LayersCallback trains "
                "no others. Swap convs where the network is built: gdp.layers.linearize(self.net), or stripe(self.net)."
            )

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradients, and leave those of closed stripes at 0."""
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        ids = {id(p) for p in trained}
        layers = [layer for layer in _layers(pl_module) if any(id(p) in ids for p in layer.parameters())]
        if not layers:
            return
        number = next((i for i, other in enumerate(trainer.optimizers) if other is optimizer), 0)
        correlation = self.correlation if self._steps[number] % self.every == 0 else 0.0
        self._steps[number] += 1
        with torch.enable_grad():
            loss = penalty(nn.ModuleList(layers), correlation, self.sparsity)
            add_gradient(loss, trained, scale_of_gradients(trainer, optimizer))
        for layer in layers:
            if isinstance(layer, StripeConv2d) and layer.skeleton.grad is not None:
                skeleton = layer.skeleton
                for tensor in (skeleton.grad, *optimizer.state.get(skeleton, {}).values()):
                    if isinstance(tensor, Tensor) and tensor.shape == skeleton.shape:
                        tensor.masked_fill_(skeleton == 0, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close the stripes that are below the threshold."""
        for layer in _layers(pl_module):
            if isinstance(layer, StripeConv2d) and layer.skeleton.requires_grad:
                layer.close(self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"steps": dict(self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state_dict: from `state_dict`.
        """
        self._steps = Counter(state_dict["steps"])


def _layers(module: nn.Module) -> Iterator[LinearConv2d | StripeConv2d]:
    """Yield the layers that are trained with a loss of their own.

    Args:
        module: the LightningModule.
    """
    for layer in module.modules():
        if isinstance(layer, LinearConv2d | StripeConv2d):
            yield layer
