"""Run by test_crashes.py: runs that kill themselves, and runs that go on from the last checkpoint that can be read.

With an argument, one run is made. Without, every line on stdin is one, made by a fork of this process, which has
imported everything and done nothing else; its exit code is the answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import pytorch_lightning as pl
import torch
from helpers.training import Lit, images, small_net, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

import gdp

EPOCHS, BATCHES = 12, 5  # the window goes from step 12 to step 36


class Scheduled(Lit):
    """The learning rate changes with every step, and a cut changes the outputs by rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net(12)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.98**step)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Resumable(DataLoader):
    """In a fixed order; goes on inside an epoch, for which Lightning asks a loader for its state."""

    seen = skip = 0

    def __iter__(self):
        skip, self.skip = self.skip, 0
        for seen, batch in enumerate(super().__iter__(), 1):
            if seen > skip:
                self.seen = seen
                yield batch

    def state_dict(self):
        return {"seen": self.seen % len(self)}

    def load_state_dict(self, state):
        self.skip = state["seen"]


class Kill(Callback):
    """As the power goes: when a step is over as far as the callbacks before this one know, or all of training is."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_fit_end(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)


class HalfWritten(TorchCheckpointIO):
    """Dies while a checkpoint is being written, on a disk that has half of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        super().save_checkpoint(checkpoint, path, storage_options)
        if checkpoint["global_step"] == self.step:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)


class Watch(Callback):
    """What was logged by the step before, and the gates just before the removal; its place is before GDPCallback."""

    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}
        self.gates: str | None = None

    def on_train_batch_start(self, trainer, *_):
        found = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("gdp/")}
        self.logged[trainer.global_step] = found

    def on_fit_end(self, trainer, *_):
        for callback in trainer.callbacks:
            if isinstance(callback, gdp.GDPCallback):
                self.gates = digest(callback.pruner.gates.gate_param)


def digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(content).hexdigest()}"


def digests(state):
    """The same nest of dicts and lists, with digests in place of tensors."""
    if isinstance(state, dict):
        return {str(key): digests(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [digests(value) for value in state]
    return digest(state) if isinstance(state, Tensor) else state


def readable(path: Path) -> bool:
    try:
        torch.load(path, weights_only=False)
    except Exception:
        return False
    return True


def last_good(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem))
    return next((path for path in reversed(found) if readable(path)), None)


def run(
    folder: str,
    way: str | None = "epoch",
    every: int | None = None,
    kill: tuple[str, int] = ("", 0),
    resume: bool = False,
    record: str = "",
) -> None:
    """One run, without gdp if `way` is None, with checkpoints every so many steps or else at the end of epochs."""
    torch.set_num_threads(1)
    moment, step = kill
    start = last_good(Path(folder)) if resume else None
    pl.seed_everything(1 if start else 0)  # what a resumed run begins with does not matter
    pruning = [] if way is None else [gdp.GDPCallback(0.4, method=gdp.Polar(start=0.2), shrink=way)]
    watch, death = Watch(), [Kill(step)]
    callbacks = [watch, *death * (moment == "before the gates"), *pruning, *death * (moment == "after the gates")]
    names = {"filename": "{step}", "auto_insert_metric_name": False, "enable_version_counter": False}
    save = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=every, **names)
    plugins = [HalfWritten(step)] * (moment == "writing")
    lit = Scheduled()
    settings = {"enable_checkpointing": True, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    fit = trainer(*callbacks, save, epochs=EPOCHS, plugins=plugins, **settings)
    data = images(16 * BATCHES)
    fit.fit(lit, Resumable(data, 16), DataLoader(data, 16), ckpt_path=start, weights_only=False)
    report = pruning[0].report if pruning else None
    content = {
        "weights": digests(lit.state_dict()),
        "optimizers": [digests(optimizer.state_dict()) for optimizer in fit.optimizers],
        "schedulers": [digests(config.scheduler.state_dict()) for config in fit.lr_scheduler_configs],
        "gates": watch.gates,
        "plan": digests(report.plan.to_dict()) if report else None,
        "report": report.to_dict() if report else None,
        "logged": watch.logged,
        "start": int(start.stem) if start else 0,
    }
    Path(record).write_text(json.dumps(content))


def forked(**settings) -> int:
    """The exit code of a run in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(2, 1)
            run(**settings)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(**json.loads(sys.argv[1]))
    else:
        for line in sys.stdin:
            print(forked(**json.loads(line)), flush=True)
