"""Run `training_step` beside training: nothing is logged, and buffers and metrics are as before afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor
from torchmetrics import Metric

from gdp.gates import products_shown
from gdp.utils import GATE_SUFFIX


@contextmanager
def protected_loss(trainer: Any, module: Any, batch: Any, batch_idx: int = 0) -> Iterator[Tensor | None]:
    """Run `training_step` on a batch, without a trace but what it has in plain attributes, and give its loss.

    Args:
        trainer: of either family.
        module: the LightningModule.
        batch: as `training_step` takes it, on its device.
        batch_idx: that it is told of, if it wants to know.

    Yields:
        The loss with its graph; None if there is none.
    """
    taken = inspect.signature(module.training_step).parameters.values()
    more = (batch_idx,) if len(taken) > 1 or any(p.kind is p.VAR_POSITIONAL for p in taken) else ()
    quiet, products = _without_side_effects(trainer, module), products_shown(module)
    with quiet, products, torch.enable_grad(), trainer.precision_plugin.train_step_context():
        found = module.training_step(batch, *more)
        loss = found.get("loss") if isinstance(found, dict) else found
        yield loss if isinstance(loss, Tensor) else None


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
