"""gdp in every form of Lightning's training loop: the target holds, and the window lies where the schedule says."""

import os
import signal
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import refused, works
from helpers.training import Lit, Stream, loader, small_net, trainer
from pytorch_lightning.callbacks import Callback, Timer
from torch import nn
from torch.utils.data import DataLoader

import gdp
from gdp import GDPCallback


class Window(Callback):
    """How many steps of the pruner there were, and at which fraction of the batches the target held."""

    def __init__(self, pruning: GDPCallback) -> None:
        self.pruning, self.steps, self.batches, self.held_at = pruning, 0, 0, None

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.batches += 1
        self.steps, self.total = self.pruning.pruner.steps, self.pruning.pruner.total_steps
        if self.pruning.pruner.done and self.held_at is None:
            self.held_at = self.batches

    @property
    def share(self) -> float:
        return self.held_at / self.batches


def fit(make=Lit, data=None, target=0.5, **kw):
    lit, pruning = make(), GDPCallback(target_flops=target)
    window = Window(pruning)
    run = trainer(pruning, window, **({"epochs": 10} | kw))
    run.fit(lit, loader() if data is None else data)
    assert target - 0.01 <= pruning.report.remaining <= target
    assert pruning.report.flops_after == pruning.report.flops_predicted
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())
    return lit, window, run


def loop(feature, note=""):
    return works("Training loop", feature, note)


FORMS = [
    pytest.param({"accumulate_grad_batches": 3}, 0.6, marks=loop("`accumulate_grad_batches`")),
    pytest.param({"gradient_clip_val": 0.1}, 0.6, marks=loop("`gradient_clip_val`, by norm and by value")),
    pytest.param(
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        0.6,
        marks=loop("`gradient_clip_val`, by norm and by value"),
    ),
    pytest.param({"overfit_batches": 2}, 0.6, marks=loop("`overfit_batches`")),
    pytest.param({"limit_train_batches": 2}, 0.6, marks=loop("`limit_train_batches`")),
    pytest.param({"limit_train_batches": 0.5}, 0.6, marks=loop("`limit_train_batches`")),
    pytest.param({"epochs": None, "max_steps": 33}, 0.6, marks=loop("`max_steps` instead of `max_epochs`")),
    pytest.param({"epochs": 1000, "max_steps": 33}, 0.6, marks=loop("`max_steps` instead of `max_epochs`")),
    pytest.param(
        {"epochs": -1, "max_steps": 33, "data": DataLoader(Stream(), None)}, 0.6, marks=loop("a loader without an end")
    ),
    pytest.param(
        {"epochs": 10, "limit_train_batches": 4, "data": DataLoader(Stream(), None)},
        0.6,
        marks=loop("a loader without an end"),
    ),
    pytest.param({"reload_dataloaders_every_n_epochs": 1}, 0.6, marks=loop("`reload_dataloaders_every_n_epochs`")),
    pytest.param({"val_check_interval": 2, "num_sanity_val_steps": 0}, 0.6, marks=loop("`val_check_interval`")),
    pytest.param({"detect_anomaly": True}, 0.6, marks=loop("`detect_anomaly`")),
    pytest.param({"deterministic": True, "benchmark": False}, 0.6, marks=loop("`deterministic`")),
    pytest.param({"inference_mode": False}, 0.6, marks=loop("`inference_mode=False`")),
]


@pytest.mark.parametrize("kw, share", FORMS, ids=lambda v: str(v)[:60] if isinstance(v, dict) else "")
def test_the_target_holds_where_the_window_ends(kw, share):
    _, window, _ = fit(**kw)
    assert abs(window.share - share) <= 1.5 / window.steps + 0.5 / 10


class Manual(Lit):
    """Two optimizers for two parts, stepped by hand, at every `every`-th batch."""

    every = 1

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), 0.05, momentum=0.9) for part in (self.net[:2], self.net[2:])]

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx) / self.every)
        if (batch_idx + 1) % self.every == 0:
            for optimizer in self.optimizers():
                self.clip_gradients(optimizer, 1.0, "norm")
                optimizer.step()
                optimizer.zero_grad()


class Seldom(Manual):
    every = 4


MANUAL = [
    pytest.param(Manual, {}, marks=loop("manual optimization with several optimizers")),
    pytest.param(Manual, {"epochs": -1, "max_steps": 80}, marks=loop("manual optimization with `max_steps`")),
    pytest.param(Seldom, {}, marks=loop("manual optimization with accumulation")),
    pytest.param(Seldom, {"epochs": 40, "max_steps": 40}, marks=loop("manual optimization with accumulation")),
]


@pytest.mark.parametrize("make, kw", MANUAL)
def test_manual_optimization(make, kw):
    _, window, _ = fit(make, **kw)
    assert window.batches == (80 if kw.get("epochs") == 40 else 40) and window.steps == window.batches // make.every
    assert window.total == window.steps and abs(window.share - 0.6) < 0.12


@loop("an adversary with an optimizer of its own", "only optimizers that train the pruned network are watched")
def test_a_second_network_with_an_optimizer_of_its_own():
    class Adversarial(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.critic = nn.Linear(4, 1)

        def configure_optimizers(self):
            return torch.optim.Adam(self.critic.parameters(), 1e-3), torch.optim.Adam(self.net.parameters(), 1e-3)

        def training_step(self, batch, batch_idx):
            critic, net = self.optimizers()
            for optimizer, sign in ((critic, -1), (net, 1)):  # the critic's gradients reach the network, too
                optimizer.zero_grad()
                out = self.net(batch[0])
                self.manual_backward(self.loss(out, batch[1]) + sign * self.critic(out).mean())
                optimizer.step()

    seen = []

    class Watched(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append((pruning.pruner.method_state["importance"].clone(), optimizer))

    lit, pruning = Adversarial(), GDPCallback(0.5, module="net")
    run = trainer(pruning, Watched(), epochs=5)
    run.fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5 and len(seen) == 40
    for (before, optimizer), (after, _) in pairwise(seen):  # noted after gdp's own look
        if optimizer is run.optimizers[1]:
            assert torch.equal(before, after)  # the critic's turn is next


@refused("Training loop", "`torch.optim.LBFGS`", "LBFGS relies on a loss that stays the same from step to step")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_lbfgs_is_refused_before_the_first_step(way, refusal):
    class Quasi(Lit):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

        def training_step(self, batch, batch_idx):
            raise AssertionError("no step may run")

    lit = Quasi()
    keys = list(lit.state_dict())
    with refusal:
        trainer(GDPCallback(0.5, shrink=way)).fit(lit, loader())
    assert list(lit.state_dict()) == keys


@refused("Training loop", "a run without an end", "this Trainer has no end. Set max_steps, or max_epochs")
@pytest.mark.parametrize(
    "kw", [{"epochs": -1}, {"epochs": 3, "stream": True}, {"epochs": None, "max_time": {"hours": 1}}]
)
def test_a_run_without_an_end_is_refused(kw, refusal):
    data = DataLoader(Stream(), None) if kw.pop("stream", False) else loader()
    with refusal:
        trainer(GDPCallback(0.5), **kw).fit(Lit(), data)


@loop("`max_time` that runs out inside the window", "the target still holds; a warning says what it costs")
def test_time_runs_out_inside_the_window():
    class Late(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 20:
                timer = next(c for c in trainer.callbacks if isinstance(c, Timer))
                timer._duration = 0

    pruning = GDPCallback(0.5)
    with pytest.warns(UserWarning, match="training ended after 2. steps, before the window for pruning did"):
        trainer(pruning, Late(), epochs=20, max_time={"hours": 1}).fit(Lit(), loader())
    assert 0.49 <= pruning.report.remaining <= 0.5


@pytest.mark.slow
@loop("`KeyboardInterrupt`", "the network stays gated and whole; finish it, or fit again")
@pytest.mark.parametrize("then", ["finish", "fit"])
def test_ctrl_c(then):
    class Press(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 20:
                os.kill(os.getpid(), signal.SIGINT)

    lit, pruning = Lit(), GDPCallback(0.5)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in its background jobs
    try:
        with pytest.raises(SystemExit):
            trainer(pruning, Press(), epochs=10).fit(lit, loader())
    finally:
        signal.signal(signal.SIGINT, handler)
    if then == "fit":
        with pytest.warns(UserWarning, match="an interrupted run has cut this network in part"):
            trainer(pruning, epochs=10).fit(lit, loader())
        report = pruning.report
    else:
        pruning.pruner.finish()
        report = gdp.remove(lit.net, pruning.pruner.graph, pruning.pruner.gates)
    assert 0.49 <= report.remaining <= 0.5 and report.flops_after == report.flops_predicted
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())


@loop("two callbacks for two networks", "`GDPCallback(module=...)` each; their metrics bear the module's name")
def test_two_networks_in_one_run():
    class Two(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.net = small_net(), small_net(), None

        def forward(self, x):
            return self.a(x) + self.b(x)

    lit, callbacks = Two(), [GDPCallback(0.5, module="a"), GDPCallback(0.3, module="b")]
    run = trainer(*callbacks, epochs=6)
    run.fit(lit, loader())
    for callback, target in zip(callbacks, (0.5, 0.3), strict=True):
        assert target - 0.01 <= callback.report.remaining <= target
        logged = run.callback_metrics[f"gdp/{callback.options.module}/flops"]
        assert logged == pytest.approx(callback.report.remaining)


@loop("`fast_dev_run`", "goes the whole way, cut included")
def test_fast_dev_run():
    lit, pruning = Lit(), GDPCallback(0.5)
    pl.Trainer(fast_dev_run=2, callbacks=[pruning], accelerator="cpu", enable_progress_bar=False).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
