"""Contracts with Lightning: each fails when Lightning renames what gdp/lightning/compat.py uses."""

import importlib
import os
import socket

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from gdp.lightning import compat, unsupported

FAMILIES = ["pytorch_lightning", "lightning.pytorch"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return importlib.import_module(request.param)


def data(value: float = 0.0) -> DataLoader:
    return DataLoader(TensorDataset(torch.full((8, 3), value)), 4)


def module(family) -> nn.Module:
    """A LightningModule of that family, which notes the batches that it sees."""

    class Module(family.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = nn.Linear(3, 1), []

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            self.seen.append(float(batch[0].mean()))
            return self(batch[0]).mean()

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def trainer(family, *callbacks, **kw):
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)
    return family.Trainer(**({"max_epochs": 1, "accelerator": "cpu", "callbacks": list(callbacks)} | quiet | kw))


def during_setup(family, look):
    """A callback that calls `look(trainer)` before Lightning has asked for its loaders, as gdp does."""

    class Look(family.Callback):
        def setup(self, trainer, pl_module, stage):
            look(trainer)

    return Look()


def test_a_callback_is_one_of_both_families(family):
    assert issubclass(compat.Callback, family.Callback)
    assert callable(compat.rank_zero_info) and callable(compat.rank_zero_warn)


def test_training_data_gives_the_loader_and_can_be_replaced(family):
    loader, found = data(1.0), []

    def look(trainer):
        source = compat.training_data(trainer)
        found.append(source.dataloader())
        source.dataloader = lambda: data(2.0)

    lit = module(family)
    trainer(family, during_setup(family, look)).fit(lit, loader)
    assert found == [loader] and lit.seen == [2.0, 2.0]


@pytest.mark.parametrize("there", [True, False])
def test_validation_data_gives_the_loader_and_says_whether_there_is_one(family, there):
    loader, found = data(), []

    class Look(family.Callback):
        def on_train_start(self, trainer, pl_module):
            source = compat.validation_data(trainer)
            found.append((source.is_defined(), source.dataloader() if there else None))

    trainer(family, Look()).fit(module(family), data(), *([loader] if there else []))
    assert found == [(there, loader if there else None)]


def test_batches_pass_through_the_hook_before_their_transfer(family):
    lit = module(family)
    lit.on_before_batch_transfer = lambda batch, dataloader_idx: [batch[0] + 3]
    found = []

    class Look(family.Callback):
        def on_train_start(self, trainer, pl_module):
            found.append(compat.before_batch_transfer(pl_module, [torch.zeros(2)])[0].tolist())

    trainer(family, Look()).fit(lit, data())
    assert found == [[3.0, 3.0]]


def test_a_refused_checkpoint_is_forgotten(family, tmp_path):
    found = []

    class Look(family.Callback):
        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            found.append(bool(trainer._checkpoint_connector._loaded_checkpoint))
            compat.forget_loaded_checkpoint(trainer)
            found.append(bool(trainer._checkpoint_connector._loaded_checkpoint))

    run = trainer(family)
    run.fit(module(family), data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    trainer(family, Look(), max_epochs=2).fit(module(family), data(), ckpt_path=tmp_path / "last.ckpt")
    assert found == [True, False]


STRATEGIES = [("auto", True), ("ddp", True), ("ddp_spawn", False), ("ddp_fork", False), ("ddp_notebook", False)]


@pytest.mark.parametrize("strategy, here", STRATEGIES)
def test_spawned_processes_train_a_copy(family, strategy, here):
    devices = 1 if strategy == "auto" else 2
    assert compat.trains_in_this_process(trainer(family, strategy=strategy, devices=devices)) == here


def test_a_communication_state_is_seen(family):
    strategies = importlib.import_module(f"{family.__name__}.strategies")
    assert not compat.has_communication_state(strategies.DDPStrategy())
    assert compat.has_communication_state(strategies.DDPStrategy(ddp_comm_state=object()))


def spied(monkeypatch, name: str) -> list[tuple[nn.Module, dict]]:
    """Who of torch's DDP has called a method of its own, and with which options; the method does what it did."""
    calls, method = [], getattr(DistributedDataParallel, name)

    def call(self, *args, **options):
        calls.append((self, options))
        return method(self, *args, **options)

    monkeypatch.setattr(DistributedDataParallel, name, call)
    return calls


def test_ddp_is_rebuilt_around_the_same_module(family, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    strategies = importlib.import_module(f"{family.__name__}.strategies")
    strategy, found = strategies.DDPStrategy(process_group_backend="gloo", bucket_cap_mb=3), []
    built, forgotten = spied(monkeypatch, "__init__"), spied(monkeypatch, "_remove_autograd_hooks")

    class Rebuild(family.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            before, settings = strategy.model, dict(strategy._ddp_kwargs)
            compat.rebuild_ddp(strategy, pl_module)
            new = isinstance(strategy.model, DistributedDataParallel) and strategy.model is not before
            found.append(new and strategy.model.module is pl_module and strategy._ddp_kwargs == settings)
            assert forgotten[-1][0] is before

    lit = module(family)
    environment = dict(os.environ)
    try:
        trainer(family, Rebuild(), strategy=strategy, devices=1).fit(lit, data(1.0))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
    assert found == [True, True] and lit.seen == [1.0, 1.0]
    # the first is Lightning's own; the user's settings are in all of them, and what gdp rebuilds broadcasts nothing
    assert [options["bucket_cap_mb"] for _, options in built] == [3, 3, 3]
    assert [options.get("init_sync", True) for _, options in built] == [True, False, False] and len(forgotten) == 2


def test_without_ddp_nothing_is_rebuilt(family):
    run, lit = trainer(family), module(family)
    run.fit(lit, data())
    before = run.strategy.model
    compat.rebuild_ddp(run.strategy, lit)
    assert run.strategy.model is before


def test_a_compiled_module_is_known_after_lightning_has_unwrapped_it(family):
    found = []

    class Look(family.Callback):
        def on_train_start(self, trainer, pl_module):
            found.append(compat.was_compiled(pl_module))

    trainer(family, Look()).fit(torch.compile(module(family), backend="eager"), data())
    trainer(family, Look()).fit(module(family), data())
    assert found == [True, False]


def test_stochastic_weight_averaging_holds_its_average_there(family):
    averaging = importlib.import_module(f"{family.__name__}.callbacks").StochasticWeightAveraging(0.01, 1)
    found = []

    class Look(family.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            found.append(isinstance(vars(averaging).get(compat.SWA_AVERAGE), nn.Module))

    trainer(family, averaging, Look(), max_epochs=3).fit(module(family), data())
    assert found == [True, True, True]


def test_what_is_refused_by_its_name_has_that_name(family):
    strategies = importlib.import_module(f"{family.__name__}.strategies")
    callbacks = importlib.import_module(f"{family.__name__}.callbacks")
    assert {name for name in unsupported.SHARDED if hasattr(strategies, name)} >= unsupported.SHARDED - {
        "XLAFSDPStrategy"
    }
    assert hasattr(callbacks, "ModelPruning") and hasattr(callbacks, "BaseFinetuning")
