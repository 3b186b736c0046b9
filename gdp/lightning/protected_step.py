"""Run `training_step` beside training: nothing is logged, and buffers and metrics are as before afterwards."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

import torch
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torchmetrics import Metric

from gdp.gates import Gates, Seen, passes_shown, products_shown
from gdp.utils import GATE_SUFFIX, Snapshot


@contextmanager
def protected_loss(
    trainer: Any, module: Any, batch: Any, batch_idx: int = 0, gradients: bool = True
) -> Iterator[Tensor | None]:
    """Run `training_step` on a batch, without a trace but what it has in plain attributes, and give its loss.

    Args:
        trainer: of either family.
        module: the LightningModule.
        batch: as `training_step` takes it, on its device.
        batch_idx: that it is told of, if it wants to know.
        gradients: make a graph.

    Yields:
        The loss, with its graph if there is one; None if there is no loss.
    """
    taken = inspect.signature(module.training_step).parameters.values()
    more = (batch_idx,) if len(taken) > 1 or any(p.kind is p.VAR_POSITIONAL for p in taken) else ()
    quiet, products = _without_side_effects(trainer, module), products_shown(module)
    with quiet, products, torch.set_grad_enabled(gradients), trainer.precision_plugin.train_step_context():
        found = module.training_step(batch, *more)
        loss = found.get("loss") if isinstance(found, dict) else found
        yield loss if isinstance(loss, Tensor) else None


class _EnoughError(BaseException):
    """A pass has shown what it was to show; the rest of the training step need not run."""


def first_pass(
    trainer: Any, module: Any, gates: Gates, batch: Any, batch_idx: int, labels: Tensor | None
) -> Seen | None:
    """Return what the first pass of a network in `training_step` shows on a batch, without gradients and any trace.

    Args:
        trainer: of either family.
        module: the LightningModule.
        gates: of the network in it.
        batch: as `training_step` is about to get it; it is not changed.
        batch_idx: its number.
        labels: classes of its samples, if they are known.

    Returns:
        None if `training_step` makes no pass.
    """
    found: list[Seen] = []

    def end(seen: Seen) -> NoReturn:
        """Keep what was seen, and leave the training step."""
        found.append(replace(seen, labels=labels))
        raise _EnoughError

    with ExitStack() as protection:
        protection.enter_context(put_back(module, Snapshot(module)))
        protection.enter_context(torch.compiler.set_stance("force_eager"))
        protection.enter_context(suppress(_EnoughError))
        protection.enter_context(passes_shown(gates, end))
        protection.enter_context(protected_loss(trainer, module, copy.deepcopy(batch), batch_idx, gradients=False))
    return found[0] if found else None


@contextmanager
def put_back(module: nn.Module, snapshot: Snapshot) -> Iterator[None]:
    """Put back what a training step leaves in random generators, attributes, tensors and gradients.

    Args:
        module: the LightningModule.
        snapshot: of it, as it is now.
    """
    gradients = [(p, p.grad) for p in module.parameters()]
    with isolate_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            snapshot.restore()
            for parameter, gradient in gradients:
                parameter.grad = gradient


@contextmanager
def _without_side_effects(trainer: Any, module: Any) -> Iterator[None]:
    """Keep a module from logging; afterwards its buffers and metrics are as before.

    Args:
        trainer: of either family.
        module: the LightningModule.
    """
    loggers, trainer.loggers = trainer.loggers, [DummyLogger() for _ in trainer.loggers]
    own = {name: vars(module)[name] for name in ("log", "log_dict") if name in vars(module)}
    inside = list(module.modules())
    buffers = [
        (m, n, b, b.clone()) for m in inside for n, b in m._buffers.items() if b is not None and GATE_SUFFIX not in n
    ]
    metrics = [(m, _copied(m.metric_state), m._update_count, m._computed) for m in inside if isinstance(m, Metric)]
    vars(module).update(log=_silent, log_dict=_silent)
    try:
        yield
    finally:
        trainer.loggers = loggers
        for owner, name, buffer, saved in buffers:
            owner._buffers[name] = buffer
            buffer.detach().copy_(saved)
        for metric, state, count, computed in metrics:
            vars(metric).update(state)
            metric._update_count, metric._computed = count, computed
        del module.log, module.log_dict
        vars(module).update(own)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, list) else v.clone() for name, v in state.items()}


def _silent(*args: Any, **kwargs: Any) -> None: ...
