"""Methods that add a loss of inner activations: runs equal those of which `training_step` adds it itself."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import refused
from helpers.looking_methods import AddsLoss, penalty_of
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision

import gdp
from gdp import GDPCallback
from gdp.gates import observed

WEIGHT = 0.3


class Smooth(Lit):
    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0].to(self.dtype)).float(), batch[1])


class Written(Smooth):
    """Adds the penalty to the loss itself, as long as gates move, but not where `training_step` is tried."""

    def on_train_batch_start(self, batch, batch_idx):
        self.batch = batch

    def training_step(self, batch, batch_idx):
        if batch is not self.batch:
            raise RuntimeError("a trial")
        pruner = self.trainer.callbacks[0].pruner
        with observed(pruner.gates) as seen:
            loss = super().training_step(batch, batch_idx)
        if pruner.done:
            return loss
        return loss + penalty_of([found.tensor for found in seen[0].activations], seen[0].output, WEIGHT)


class StepsByItself:
    """Makes a module optimize manually."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Manual(StepsByItself, Smooth): ...


class WrittenManual(StepsByItself, Written): ...


def fit(make, method, *callbacks, epochs=3, path=None, **kw):
    pl.seed_everything(0)
    lit, pruning = make(), GDPCallback(0.5, module="net", method=method)
    trainer(pruning, *callbacks, epochs=epochs, **kw).fit(lit, loader(48, 8), ckpt_path=path)
    return lit, pruning


def scaled():
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))]}


RUNS = {
    "accumulated, clipped": (Smooth, Written, lambda: {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
    "accumulated, scaled": (Smooth, Written, lambda: {"accumulate_grad_batches": 3} | scaled()),
    "manual, scaled": (Manual, WrittenManual, scaled),
}


@pytest.mark.parametrize("make, written, options", RUNS.values(), ids=RUNS)
def test_a_run_equals_one_whose_training_step_adds_the_loss_itself(make, written, options):
    lit, pruning = fit(make, AddsLoss(weight=WEIGHT), **options())
    expected, other = fit(written, gdp.Polar(), **options())
    assert pruning.report.plan == other.report.plan
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if "plugins" in options() else {"rtol": 1e-5, "atol": 1e-6}  # of fp16
    for one, wanted in zip(lit.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, wanted, **tolerance)


def test_the_loss_makes_another_run_and_holds_no_channel_open():
    lit, pruning = fit(Smooth, AddsLoss(weight=WEIGHT), epochs=2)
    plain, _ = fit(Smooth, gdp.Polar(), epochs=2)
    assert not torch.equal(lit.net[5].bias, plain.net[5].bias)
    assert [frozen.name for frozen in pruning.report.frozen] == ["5"]


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole, pruning = fit(Smooth, AddsLoss(), save, enable_checkpointing=True)
    again, resumed = fit(Smooth, AddsLoss(), path=tmp_path / "epoch=1.ckpt")
    assert pruning.report.plan == resumed.report.plan
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_no_copy_and_no_file_holds_a_hook_and_nothing_stays_behind(tmp_path):
    class Copies(Callback):
        """Copies the network at every moment."""

        def copies(self, _, module, *args):
            twin = copy.deepcopy(module.net)
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())
            torch.save(module.net, tmp_path / "net.pt")

        on_before_backward = on_after_backward = on_train_batch_end = on_train_batch_start = copies

    lit, pruning = Smooth(), GDPCallback(0.5, module="net", method=AddsLoss())
    trainer(Copies(), pruning, Copies(), epochs=2).fit(lit, loader())
    assert not torch.nn.modules.module._has_any_global_hook()
    assert not {"training_step", "on_train_batch_start"} & vars(lit).keys()


# what is refused, before the first step


class InParts(Lit):
    """Calls the layers of its network, and never the network."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        for layer in self.net:
            x = layer(x)
        return self.loss(x, y)


class Compiled(Lit):
    def __init__(self):
        super().__init__()
        self.net.compile(backend="eager")


class CompiledPart(Lit):
    def __init__(self):
        super().__init__()
        self.net[2] = torch.compile(self.net[2], backend="eager")


@refused(
    "Methods",
    "methods that add a loss of activations, with torch.compile",
    "AddsLoss adds a loss of what the layers of … read, but no pass of … in the first training step shows that: it is "
    "compiled, or training_step does not call it as a whole. Train it without torch.compile, call it in training_step, "
    "or use a method that adds no loss, such as method='polar'.",
)
@pytest.mark.parametrize("make", [InParts, Compiled, CompiledPart, lambda: torch.compile(Lit(), backend="eager")])
def test_a_network_that_does_not_show_what_its_layers_read_is_refused(make, refusal):
    model = make()
    lit = getattr(model, "_orig_mod", model)
    weights = {name: value.clone() for name, value in lit.state_dict().items()}
    run = trainer(GDPCallback(0.5, method=AddsLoss()))
    with refusal:
        run.fit(model, loader())
    assert run.global_step == 0 and lit.state_dict().keys() == weights.keys()
    trained = [name for name, _ in lit.named_parameters()]
    assert all(torch.equal(lit.state_dict()[name], weights[name]) for name in trained)
    assert not torch.nn.modules.module._has_any_global_hook()


def test_another_network_may_be_compiled():
    class WithTeacher(Smooth):
        def __init__(self):
            super().__init__()
            self.teacher = torch.compile(torch.nn.Conv2d(3, 4, 1), backend="eager").requires_grad_(False)

    _, pruning = fit(WithTeacher, AddsLoss(), epochs=2)
    assert 0.49 <= pruning.report.remaining <= 0.5
