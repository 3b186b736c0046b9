"""GDPCallback beside the callbacks that come with Lightning, before and after it in the list: both do their work."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import warnings
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from helpers.beside import Progress, assert_pruned, fit_beside, gate_buffers
from helpers.features import refused, works
from helpers.training import Lit, images, loader, small_net, trainer
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BasePredictionWriter,
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelPruning,
    ModelSummary,
    RichModelSummary,
    RichProgressBar,
    SpikeDetection,
    ThroughputMonitor,
    Timer,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

import gdp
from gdp import GDPCallback

pytestmark = pytest.mark.slow


AREA = "Other callbacks"


BOTH_ORDERS = pytest.mark.parametrize("turn", [1, -1], ids=["gdp first", "gdp last"])


UNFINISHED = ".*training ended after .* steps, before the window"


class Stalled(Lit):
    """Logs a value that never gets better."""

    def training_step(self, batch, batch_idx):
        self.log("stall", 1.0)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    "patience, steps",
    [
        pytest.param(2, 12, marks=works(AREA, "EarlyStopping inside the window", "warns, the target still holds")),
        pytest.param(7, 32, marks=works(AREA, "EarlyStopping after the window")),
    ],
    ids=["inside", "after"],
)
@BOTH_ORDERS
def test_early_stopping(turn, patience, steps):
    ends = []
    for pruned in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stopping = EarlyStopping("stall", patience=patience)
            *_, run = fit_beside(stopping, turn=turn, make=Stalled, pruned=pruned, epochs=10)
        ends.append((run.global_step, stopping.stopped_epoch))
    assert ends[0] == ends[1] == (steps, patience)
    assert len([w for w in caught if "before the window for pruning did" in str(w.message)]) == (patience == 2)


KINDS = {
    kind.__name__: kind
    for kind in [*vars(schedulers).values(), SWALR]
    if inspect.isclass(kind) and issubclass(kind, schedulers.LRScheduler) and not kind.__name__.endswith("LRScheduler")
}


ARGUMENTS = {
    "LambdaLR": {"lr_lambda": lambda step: 0.9**step},
    "MultiplicativeLR": {"lr_lambda": lambda step: 1 / (1 + step)},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5]},
    "ConstantLR": {"factor": 0.5, "total_iters": 3},
    "LinearLR": {"total_iters": 6},
    "ExponentialLR": {"gamma": 0.9},
    "SequentialLR": {"milestones": [3]},
    "PolynomialLR": {"total_iters": 7, "power": 2},
    "CosineAnnealingLR": {"T_max": 8},
    "ChainedScheduler": {},
    "ReduceLROnPlateau": {"patience": 1},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 8},
    "SWALR": {"swa_lr": 0.2, "anneal_epochs": 4},
}


def make_scheduler(name: str, optimizer: torch.optim.Optimizer):
    arguments = dict(ARGUMENTS[name])  # a class that is new in torch has to be given arguments above
    if name in ("SequentialLR", "ChainedScheduler"):
        parts = [schedulers.LinearLR(optimizer, total_iters=3), schedulers.ExponentialLR(optimizer, 0.8)]
        return KINDS[name](schedulers=parts, optimizer=optimizer, **arguments)
    return KINDS[name](optimizer, **arguments)


@works(AREA, "LearningRateMonitor, with every scheduler of torch.optim", "learning rates as without gdp")
@pytest.mark.parametrize("name", KINDS)
def test_learning_rates(tmp_path, name):
    class Scheduled(Stalled):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = make_scheduler(name, optimizer)
            return [optimizer], [{"scheduler": scheduler, "interval": "step", "monitor": "stall"}]

    def rates(turn=1, pruned=True):
        monitor, logger = LearningRateMonitor("step", log_momentum=True), CSVLogger(tmp_path)
        each_step = {"log_every_n_steps": 1, "limit_val_batches": 0}
        fit_beside(monitor, turn=turn, make=Scheduled, pruned=pruned, epochs=2, logger=logger, **each_step)
        return monitor.lrs, monitor.last_momentum_values

    assert type(make_scheduler(name, Lit().configure_optimizers())) is KINDS[name]
    dense = rates(pruned=False)
    assert [len(v) for v in dense[0].values()] == [8] and len(set(dense[0]["lr-SGD"])) > 1
    assert dense == rates() == rates(turn=-1)


@works(AREA, "GradientAccumulationScheduler", "the window counts the steps that will be made")
@pytest.mark.parametrize(
    "scheduling, size, steps",
    [({0: 1, 2: 4}, 64, 16), ({0: 4, 6: 1}, 64, 22), ({0: 2, 3: 3}, 80, 23)],
    ids=str,
)
@BOTH_ORDERS
def test_accumulation_that_changes(turn, scheduling, size, steps):
    def run(*more, **kw):
        accumulation = GradientAccumulationScheduler(dict(scheduling))
        kw |= {"turn": turn, "epochs": 10, "data": loader(size), "method": gdp.Polar(start=0.1, end=0.6)}
        return fit_beside(accumulation, *more, **kw)[-1]

    progress = Progress()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=UNFINISHED)
        pruned = run(progress)
    assert pruned.global_step == run(pruned=False).global_step == steps == len(progress.done)
    opens, ends = 0.1 * steps, 0.6 * steps
    assert all(value == 1.0 for value in progress.remaining[: int(opens) - 1])
    assert not any(progress.done[: int(ends) - 1]) and all(progress.done[int(ends) + 1 :])


class WithBackbone(Lit):
    """Only the head is trained at first."""

    def __init__(self) -> None:
        super().__init__()
        parts = list(small_net())
        self.net, self.backbone, self.head = None, nn.Sequential(*parts[:-1]), parts[-1]

    def forward(self, x):
        return self.head(self.backbone(x))

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), 0.05, momentum=0.9)


class TwoStages(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        for part, at in ((pl_module.backbone[2], 1), (pl_module.backbone[:2], 2)):
            if epoch == at:
                self.unfreeze_and_add_param_group(part, optimizer, lr=0.02)


class Steps(Callback):
    """The weights at the beginning of every step, and how many groups of them are trained."""

    def __init__(self) -> None:
        self.weights, self.groups = [], []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.weights.append([p.detach().clone() for p in pl_module.parameters()])
        self.groups.append(len(trainer.optimizers[0].param_groups))


FINETUNING = [
    pytest.param(
        lambda: BackboneFinetuning(2, backbone_initial_ratio_lr=0.5),
        2,
        marks=works(AREA, "BackboneFinetuning", "the window opens when the backbone is trained"),
        id="backbone",
    ),
    pytest.param(
        TwoStages,
        3,
        marks=works(AREA, "a BaseFinetuning of your own", "the window opens when all is trained"),
        id="two stages",
    ),
]


@pytest.mark.parametrize("make, groups", FINETUNING)
@pytest.mark.parametrize("module", [None, "backbone"])
@BOTH_ORDERS
def test_layers_that_are_trained_later(turn, module, make, groups):
    dense, steps, progress = Steps(), Steps(), Progress()
    pl.seed_everything(0)
    trainer(make(), dense, epochs=10).fit(WithBackbone(), loader())
    pl.seed_everything(0)
    lit, pruning = WithBackbone(), GDPCallback(0.5, module=module, method=gdp.Polar(start=0.0, end=0.6))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=UNFINISHED)
        trainer(*[pruning, make()][::turn], steps, progress, epochs=10).fit(lit, loader())
    assert_pruned(lit, pruning, 0.46)  # a channel of the backbone is 3 % of it
    prefix = "" if module else "backbone."
    names = [f"{prefix}{i}.0" for i in range(3 if module is None else 2)]
    kept = {name: (left, size) for name, left, size in pruning.report.groups}
    assert list(kept) == names and all(left < size for left, size in list(kept.values())[:2])
    assert lit.backbone[1][0].out_channels < 16 and all(p.requires_grad for p in lit.parameters())
    # the backbone stood still and then began to move, and gdp came only then
    for one, other in zip(dense.weights[:10], steps.weights, strict=False):
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))
    first = [weights[0] for weights in steps.weights]  # of the backbone
    assert torch.equal(first[0], first[8]) and not torch.equal(first[8], first[9])
    assert steps.groups == dense.groups and steps.groups[-1] == groups
    assert progress.remaining[:8] == [1.0] * 8 and not any(progress.done[:8]) and progress.done[-1]


@works(AREA, "LambdaCallback", "every hook is called as without gdp")
@BOTH_ORDERS
def test_every_hook_is_called(turn):
    hooks = list(inspect.signature(LambdaCallback).parameters)

    def calls(**kw):
        seen = []
        noting = LambdaCallback(**{name: lambda *_, name=name, **__: seen.append(name) for name in hooks})
        fit_beside(noting, turn=turn, **kw)
        return seen

    found = calls()
    assert found == calls(pruned=False) and {"setup", "on_after_backward", "on_fit_end", "teardown"} <= set(found)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(ModelSummary, marks=works(AREA, "ModelSummary")),
        pytest.param(RichModelSummary, marks=works(AREA, "RichModelSummary")),
    ],
)
@BOTH_ORDERS
def test_summaries(capsys, caplog, monkeypatch, turn, make):
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "propagate", True)
    summaries = []
    for pruned in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, "pytorch_lightning.callbacks.model_summary"):
            fit_beside(make(max_depth=3), turn=turn, pruned=pruned)
        mine = [r.getMessage() for r in caplog.records if r.name.endswith("model_summary")]
        summaries.append((mine, capsys.readouterr().out))
    text = "".join(summaries[0][0]) + summaries[0][1]
    assert summaries[0] == summaries[1] and "net.0.0" in text and "Total params" in text


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(TQDMProgressBar, marks=works(AREA, "TQDMProgressBar")),
        pytest.param(RichProgressBar, marks=works(AREA, "RichProgressBar")),
    ],
)
@BOTH_ORDERS
def test_progress_bars(capsys, monkeypatch, turn, make):
    monkeypatch.setenv("COLUMNS", "200")
    texts = []
    for pruned in (False, True):
        fit_beside(make(), turn=turn, pruned=pruned, enable_progress_bar=True)
        captured = capsys.readouterr()
        texts.append(captured.out + captured.err)
    assert all("Epoch 3" in text and "4/4" in text for text in texts)
    assert "gdp/flops" in texts[1] and "gdp/" not in texts[0]


@pytest.mark.parametrize(
    "make, mine",
    [
        pytest.param(
            lambda: ThroughputMonitor(lambda batch: len(batch[0]), window_size=4),
            "train/batches",
            marks=works(AREA, "ThroughputMonitor"),
            id="throughput",
        ),
        pytest.param(
            # it needs psutil to have something to say about a CPU
            lambda: DeviceStatsMonitor(None if importlib.util.find_spec("psutil") else False),
            "DeviceStatsMonitor.on_train_batch_end/cpu_percent" if importlib.util.find_spec("psutil") else "",
            marks=works(AREA, "DeviceStatsMonitor"),
            id="device",
        ),
    ],
)
@BOTH_ORDERS
def test_monitors(tmp_path, turn, make, mine):
    columns = []
    for pruned in (False, True):
        logger = CSVLogger(tmp_path, version=int(pruned))
        fit_beside(make(), turn=turn, pruned=pruned, logger=logger, log_every_n_steps=1)
        rows = (tmp_path / f"lightning_logs/version_{int(pruned)}/metrics.csv").read_text().splitlines()
        columns.append({name for name in rows[0].split(",") if not name.startswith("gdp/")})
    assert columns[0] == columns[1] and (not mine or mine in columns[0])


@works(AREA, "Timer", "time that is up inside the window: warns, the target still holds")
@BOTH_ORDERS
def test_timer(turn):
    timer = Timer(timedelta(seconds=0.3))
    with pytest.warns(UserWarning, match=UNFINISHED):
        *_, run = fit_beside(timer, turn=turn, epochs=10_000)
    assert timer.time_elapsed() >= 0.3 and 0 < run.global_step < 4000
    timer = Timer(timedelta(hours=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=UNFINISHED)
        *_, run = fit_beside(timer, turn=turn)
    assert 0 < timer.time_elapsed() < 3600 and run.global_step == 16


@works(AREA, "Timer", "time that is up inside the window: warns, the target still holds")
def test_max_time():
    with pytest.warns(UserWarning, match=UNFINISHED):
        *_, run = fit_beside(epochs=10_000, max_time=timedelta(seconds=0.3))
    assert 0 < run.global_step < 4000


@works(AREA, "SpikeDetection")
@BOTH_ORDERS
def test_spikes(tmp_path, turn):
    class Spiked(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * 1e6 if self.trainer.global_step == 18 else loss

    def run(make, **kw):
        spikes = SpikeDetection(warmup=1, rtol=10, exclude_batches_path=str(tmp_path / "skip.json"))
        fit_beside(spikes, turn=turn, make=make, epochs=6, **kw)
        return spikes.bad_batches

    assert run(Lit) == []
    for pruned in (False, True):
        with pytest.raises(Exception, match="Training spike detected"):
            run(Spiked, pruned=pruned)
        assert (tmp_path / "skip.json").exists()
        (tmp_path / "skip.json").unlink()


@works(AREA, "BasePredictionWriter", "with the pruned network")
@BOTH_ORDERS
def test_predictions_are_written(turn):
    class Writer(BasePredictionWriter):
        def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
            self.found = torch.cat(predictions)

    class Predicting(Lit):
        def predict_step(self, batch, batch_idx):
            return self(batch[0])

    writer = Writer("epoch")
    lit, _, run = fit_beside(writer, turn=turn, make=Predicting)
    run.predict(lit, DataLoader(images(), batch_size=16))
    with torch.no_grad():
        torch.testing.assert_close(writer.found, lit.eval()(images().tensors[0]))


@pytest.mark.parametrize(
    "own",
    [
        pytest.param("gdp", marks=works(AREA, "GDPCallback from LightningModule.configure_callbacks")),
        pytest.param("other", marks=works(AREA, "callbacks from LightningModule.configure_callbacks")),
        pytest.param("both", marks=works(AREA, "GDPCallback from LightningModule.configure_callbacks")),
    ],
)
@BOTH_ORDERS
def test_callbacks_of_the_module(turn, own):
    pruning, stopping = GDPCallback(0.5), EarlyStopping("stall", patience=7)

    class Configured(Stalled):
        def configure_callbacks(self):
            return {"gdp": pruning, "other": stopping, "both": [pruning, stopping][::turn]}[own]

    mine = {"gdp": [stopping], "other": [pruning], "both": []}[own]
    lit, run = Configured(), trainer(*mine, epochs=10)
    run.fit(lit, loader(), loader())
    assert_pruned(lit, pruning)
    assert stopping.stopped_epoch == 7 and run.global_step == 32
    run = trainer(*mine, epochs=2)  # once more, with what is left
    run.fit(lit, loader(), loader())
    assert 0.49 <= pruning.report.remaining <= 0.5 and not gate_buffers(lit)


@works(AREA, "GDPCallback from LightningModule.configure_callbacks")
@BOTH_ORDERS
def test_a_callback_of_the_module_takes_the_place_of_the_trainers(turn):
    mine, its, stopping = GDPCallback(0.9), GDPCallback(0.5), EarlyStopping("stall", patience=7)

    class Configured(Stalled):
        def configure_callbacks(self):
            return [its]

    lit = Configured()
    trainer(*[mine, stopping][::turn], epochs=10).fit(lit, loader(), loader())
    assert_pruned(lit, its)
    assert mine.report is None and stopping.stopped_epoch == 7


@refused(
    AREA, "ModelPruning", "ModelPruning makes products with masks of the network's parameters… Use one of the two."
)
@BOTH_ORDERS
def test_a_second_pruner(turn, refusal):
    with refusal:
        fit_beside(ModelPruning("l1_unstructured", amount=0.5), turn=turn)
