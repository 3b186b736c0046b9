"""Methods that are shown batches: by a pass beside training, of which nothing else of a run notices."""

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import works
from helpers.looking_methods import ByActivity, ByClass, Shown
from helpers.training import Lit, images, loader, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

import gdp
from gdp import GDPCallback

SEEN = []


class Noting(Shown):
    """Notes the labels that it is shown."""

    def observe(self, state, seen, context):
        SEEN.append((context.steps + 1, seen.labels, seen.output.requires_grad))
        return super().observe(state, seen, context)


class Busy(Lit):
    """Draws numbers, keeps statistics, counts, changes its batch, logs, and has a metric."""

    def __init__(self):
        super().__init__()
        self.net.insert(3, nn.Dropout(0.5))
        self.calls, self.kept, self.mean, self.shift = 0, [], MeanMetric(), nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.calls += 1
        self.kept.append(batch_idx)
        with torch.no_grad():
            self.shift += 1  # moved in place, as a momentum encoder is
        x += 0.1 * torch.randn_like(x)
        out = self(x)
        self.log("mean", self.mean(out.detach().mean()), on_step=True, on_epoch=False)
        return self.loss(out, y)


class Record(Callback):
    """Loss, gates and random numbers after every batch."""

    def __init__(self, pruning):
        self.pruning, self.found, self.batches = pruning, [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append((self.pruning.pruner.steps + 1, batch[1]))

    def on_train_batch_end(self, trainer, module, outputs, *_):
        gates = self.pruning.pruner.gates.gate_param.clone()
        self.found.append((outputs["loss"], trainer.logged_metrics["mean"], gates, torch.get_rng_state()))


def fit(method, make=Busy, *callbacks, epochs=6, data=None, path=None, **kw):
    pl.seed_everything(0)
    lit, pruning = make(), GDPCallback(0.5, method=method)
    run = trainer(pruning, *(make_one(pruning) for make_one in callbacks), epochs=epochs, **kw)
    run.fit(lit, data or loader(), ckpt_path=path)
    return lit, pruning, run


def assert_same(lit, other):
    assert lit.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in lit.state_dict().items())


@works("Methods", "methods that observe batches", "beside training, which goes on bit for bit as without")
@pytest.mark.parametrize("kw", [{}, {"accumulate_grad_batches": 3}], ids=["", "accumulated"])
def test_a_run_that_observes_and_does_not_use_it_equals_one_that_does_not_bit_for_bit(kw):
    one, pruning, run = fit(gdp.Polar(), Busy, Record, data=loader(shuffle=True), **kw)
    other, watched, again = fit(Shown(batches=2), Busy, Record, data=loader(shuffle=True), **kw)
    assert_same(one, other)
    assert one.calls == other.calls == 24 and one.kept == other.kept
    assert pruning.report.plan == watched.report.plan
    for found, wanted in zip(again.callbacks[1].found, run.callbacks[1].found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert torch.equal(one.mean.compute(), other.mean.compute())


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_first_batches_of_the_last_steps_before_a_choice_are_shown_without_gradients(accumulated):
    SEEN.clear()
    *_, run = fit(Noting(batches=1, end=0.8, closing=20), Busy, Record, accumulate_grad_batches=accumulated)
    first = {}
    for step, labels in run.callbacks[1].batches:
        first.setdefault(step, labels)
    window = gdp.Polar(end=0.8, closing=20).window(run.global_step)
    due = {*range(window.start, window.last_selection, window.selection_interval), window.last_selection}
    assert [step for step, _, _ in SEEN] == [1, *sorted(due)]  # the first one is a try
    assert all(torch.equal(labels, first[step]) and not gradient for step, labels, gradient in SEEN)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    def saving(_):
        return ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)

    method, data = ByActivity(batches=2, closing=30), loader(batch_size=64)
    whole, pruning, _ = fit(method, Lit, saving, epochs=14, data=data, enable_checkpointing=True)
    assert 0.49 <= pruning.report.remaining <= 0.5
    for step in (1, 5):  # a batch was shown, and the one of the step to come will be
        resumed, again, _ = fit(method, Lit, epochs=14, data=data, path=tmp_path / f"step={step}.ckpt")
        assert_same(whole, resumed)
        assert again.report.plan == pruning.report.plan


@pytest.mark.filterwarnings("ignore:.*global hooks")
def test_a_compiled_network_is_observed_as_it_is_written():
    class Compiled(Lit):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    torch.compiler.reset()
    _, pruning, _ = fit(ByActivity(), Compiled, epochs=4, limit_train_batches=2)
    assert 0.49 <= pruning.report.remaining <= 0.5
    torch.compiler.reset()


# what is refused, before the first step


def refused(expected, method, make=Lit, data=None):
    lit = make()
    keys, classes = list(lit.state_dict()), [type(m) for m in lit.modules()]
    weights = {name: value.clone() for name, value in lit.state_dict().items()}
    run = trainer(GDPCallback(0.5, method=method))
    with pytest.raises(gdp.GDPError, match=expected):
        run.fit(lit, data or loader())
    assert run.global_step == 0 and list(lit.state_dict()) == keys and [type(m) for m in lit.modules()] == classes
    assert all(torch.equal(value, weights[name]) for name, value in lit.state_dict().items())
    assert not {"log", "training_step", "on_train_batch_start"} & vars(lit).keys()
    assert not torch.nn.modules.module._has_any_global_hook()


def test_manual_optimization_is_refused():
    class Manual(Lit):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            raise AssertionError("no step may run")

    refused(r"Shown observes batches in Manual\.training_step.*automatic optimization", Shown(), Manual)


class FirstAlone(Lit):
    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()


X, Y = images(32).tensors
WITHOUT_CLASSES = {
    "no second part": ([X], r"is a list \(torch\.float32 of shape \(16, 3, 12, 12\)\)"),
    "numbers": ([X, Y.float()], r"torch\.float32 of shape \(16,\)"),
    "one per pixel": ([X, Y[:, None, None].expand(32, 12, 12)], r"torch\.int64 of shape \(16, 12, 12\)"),
    "three parts": ([X, Y, Y], r"int64 of shape \(16,\), torch\.int64 of"),
}


@pytest.mark.parametrize("tensors, found", WITHOUT_CLASSES.values(), ids=WITHOUT_CLASSES)
def test_batches_without_classes_are_refused_for_a_method_that_needs_them(tensors, found):
    refused(
        f"ByClass needs the classes.*{found}.*polar", ByClass(), FirstAlone, DataLoader(TensorDataset(*tensors), 16)
    )


def test_classes_of_32_bits_are_given_with_64():
    SEEN.clear()

    class Named(Noting):
        needs_labels = True

    fit(Named(), FirstAlone, epochs=3, data=DataLoader(TensorDataset(X, Y.int()), 16))
    assert SEEN and all(labels.dtype == torch.int64 and len(labels) == 16 for _, labels, _ in SEEN)


def test_a_resumed_run_whose_batches_have_no_classes_is_refused(tmp_path):
    def saving(_):
        return ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)

    fit(ByClass(), FirstAlone, saving, epochs=2, enable_checkpointing=True)
    with pytest.raises(gdp.GDPError, match="ByClass needs the classes"):
        fit(ByClass(), FirstAlone, data=DataLoader(TensorDataset(X), 8), path=tmp_path / "step=4.ckpt")


class InParts(Lit):
    """Calls the layers of its network, and never the network."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        for layer in self.net:
            x = layer(x)
        return self.loss(x, y)


def test_a_training_step_that_does_not_call_the_network_is_refused():
    refused("Shown observes.*training_step does not call Sequential as a whole", Shown(), InParts)
