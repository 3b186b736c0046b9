"""What happens to the module, its metrics and its loaders while held-out batches pass through it."""

import pytest
import pytorch_lightning as pl
import torch
from helpers.training import Lit, images, loader, trainer
from torch.utils.checkpoint import checkpoint
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, random_split
from torchmetrics.classification import MulticlassAccuracy

import gdp
from gdp import Annealed, GDPCallback

QUICK = Annealed(every=1, pace=2.0)


def fit(lit, data=None, *callbacks, method=QUICK, **kw):
    pl.seed_everything(0)
    pruning = GDPCallback(0.5, method=method)
    run = trainer(pruning, *callbacks, **({"epochs": 6, "num_sanity_val_steps": 0} | kw))
    run.fit(lit, loader(shuffle=True) if data is None else data)
    assert 0.49 <= pruning.report.remaining <= 0.5
    return pruning


class Counting(Lit):
    """Counts what it is trained on, in a metric, in a list metric, and in a buffer."""

    def __init__(self):
        super().__init__()
        self.metric = MulticlassAccuracy(4, average="micro")
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.trained, self.lessons = 0, 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.lessons += 1
        self.seen += len(x)
        self.metric.update(self(x), y)
        return self.loss(self(x), y)

    def on_before_backward(self, loss):
        self.trained += 1


def test_metrics_and_buffers_count_what_is_trained_on_only():
    lit = Counting()
    fit(lit, loader(batch_size=8))
    assert lit.lessons > lit.trained
    assert int(lit.seen) == 8 * lit.trained - lit.trained // 7 * 5  # 51 of 64 samples: every seventh batch has three
    assert int(lit.metric.tp + lit.metric.fn) == int(lit.seen)
    norm = next(m for m in lit.net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 2 * lit.trained  # it calls the network twice


class Prepared(Lit):
    """Needs the hook before the transfer: it makes a dict of every batch."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return {"x": batch[0], "y": batch[1]}

    def training_step(self, batch, *args):
        assert len(args) == 1
        return self.loss(self(batch["x"]), batch["y"])


def test_batches_are_prepared_as_in_training():
    lit = Prepared()
    lit.example_input_array = torch.zeros(1, 3, 12, 12)
    fit(lit)


class Checkpointed(Lit):
    """Keeps no activations of its first stage, batch norm included; they are computed again in the backward pass."""

    def forward(self, x):
        if not self.training:
            return self.net(x)
        return self.net[1:](checkpoint(self.net[0], x, use_reentrant=False))


def test_activation_checkpointing():
    lit = Checkpointed()
    lit.example_input_array = torch.zeros(1, 3, 12, 12)
    fit(lit)


class Split(Lit):
    """Splits its data at random whenever Lightning asks for a loader."""

    def train_dataloader(self):
        some, _ = random_split(images(), [48, 16])
        self.made = getattr(self, "made", 0) + 1
        return DataLoader(some, 8)


def test_a_loader_is_asked_for_as_often_as_without_gates():
    made = {}
    for method in ("polar", QUICK):
        pl.seed_everything(0)
        lit = Split()
        trainer(GDPCallback(0.5, method=method), epochs=6, num_sanity_val_steps=0).fit(lit)
        made[method] = lit.made
    assert made["polar"] == made[QUICK]


def test_batches_of_a_sampler_of_ones_own_are_refused():
    data = DataLoader(images(), batch_sampler=BatchSampler(RandomSampler(images()), 8, False))
    with pytest.raises(gdp.GDPError, match="held_out='val'"):
        fit(Lit(), data)


def test_two_callbacks_with_gates_that_learn():
    class Two(Lit):
        def __init__(self):
            super().__init__()
            self.other = Lit().net

        def forward(self, x):
            return self.net(x) + self.other(x)

    pl.seed_everything(0)
    lit, both = Two(), [GDPCallback(0.5, module=name, method=QUICK) for name in ("net", "other")]
    run = trainer(*both, epochs=6, num_sanity_val_steps=0)
    run.fit(lit, loader())
    assert all(0.49 <= pruning.report.remaining <= 0.5 for pruning in both)
    assert "dataloader" not in vars(run.fit_loop._data_source)
