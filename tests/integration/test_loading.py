"""Loading checkpoints in unusual circumstances: averages, several callbacks, hooks of the user's, runs that change."""

import copy
import zipfile
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import refused, works
from helpers.training import Lit, LitWithAverage, LitWithBlocks, X, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import nn

import gdp
from gdp import GDPCallback

AVERAGES = {
    "none": list,
    "ema": lambda: [EMAWeightAveraging(decay=0.9)],
    "swa": lambda: [StochasticWeightAveraging(0.01, 7)],
}
WITH_AVERAGES = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES.keys())


class Tested(Lit):
    def test_step(self, batch, batch_idx):
        self.log("test", self(batch[0]).sum())


class TestedDeep(LitWithAverage):
    test_step = Tested.test_step


def run(tmp_path, *callbacks, make=Tested, epochs=10, path=None, **kw):
    pl.seed_everything(0)
    lit, save = make(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fitting = trainer(*callbacks, save, epochs=epochs, enable_checkpointing=True, **kw)
    fitting.fit(lit, loader(), loader(), ckpt_path=path)
    return lit, fitting


@works("After fit", "`trainer.test(ckpt_path=...)` beside weight averaging", "same process, or a fresh model")
@WITH_AVERAGES
@pytest.mark.parametrize("epoch", [3, 9, "after"])
def test_averages_and_checkpoints_that_are_tested(tmp_path, average, epoch):
    pruning = GDPCallback(0.5)
    lit, fitting = run(tmp_path, pruning, *average())
    fitting.save_checkpoint(tmp_path / "epoch=after.ckpt")
    path = tmp_path / f"epoch={epoch}.ckpt"
    fresh = Tested()
    trainer(GDPCallback(0.5), *average()).test(fresh, loader(), ckpt_path=path, verbose=False)
    expected = outputs(gdp.load_checkpoint(Tested(), path))
    torch.testing.assert_close(outputs(fresh), expected, rtol=1e-5, atol=1e-5)
    if epoch != 3:
        fitting.test(lit, loader(), ckpt_path=path, verbose=False)
        assert [p.shape for p in lit.parameters()] == [p.shape for p in fresh.parameters()]


@works("Checkpoints and resume", "a checkpoint from after the cut, with averages")
@pytest.mark.parametrize("make", [Tested, TestedDeep])
@WITH_AVERAGES
def test_checkpoints_from_after_the_cut_with_averages(tmp_path, average, make):
    lit, fitting = run(tmp_path, GDPCallback(0.5, module="net"), *average(), make=make, epochs=6)
    path = tmp_path / "small.ckpt"
    fitting.save_checkpoint(path)
    sizes = [p.shape for p in lit.parameters()]
    assert [p.shape for p in gdp.load_checkpoint(make(), path).parameters()] == sizes
    pruning = GDPCallback(0.5, module="net")
    again, _ = run(tmp_path, pruning, *average(), make=make, epochs=8, path=path)
    assert [p.shape for p in again.parameters()] == sizes and 0.49 <= pruning.report.remaining <= 0.5


@refused("Checkpoints and resume", "resuming after whole blocks have gone", "A run can't be resumed after whole blocks")
def test_blocks_can_not_be_resumed_after_the_cut(tmp_path, refusal):
    target = 0.9 * gdp.check(LitWithBlocks().net, X[:1]).remaining
    lit, fitting = run(tmp_path, GDPCallback(target, blocks=True), make=LitWithBlocks, epochs=6)
    fitting.save_checkpoint(tmp_path / "small.ckpt")
    torch.testing.assert_close(outputs(gdp.load_checkpoint(LitWithBlocks(), tmp_path / "small.ckpt")), outputs(lit))
    with refusal:
        trainer(GDPCallback(target, blocks=True), epochs=8).fit(
            LitWithBlocks(), loader(), ckpt_path=tmp_path / "small.ckpt"
        )


class Two(Tested):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.net = small_net(), small_net(), None

    def forward(self, x):
        return self.a(x) + self.b(x)


@works("Checkpoints and resume", "several `GDPCallback`s in one run")
def test_several_callbacks(tmp_path):
    def callbacks():
        return GDPCallback(0.5, module="a"), GDPCallback(0.4, module="b")

    lit, fitting = run(tmp_path, *callbacks(), make=Two)
    fitting.save_checkpoint(tmp_path / "epoch=after.ckpt")
    for epoch in (3, 9, "after"):
        path, fresh = tmp_path / f"epoch={epoch}.ckpt", Two()
        trainer(*callbacks()).test(fresh, loader(), ckpt_path=path, verbose=False)
        torch.testing.assert_close(outputs(fresh), outputs(gdp.load_checkpoint(Two(), path)), rtol=1e-5, atol=1e-5)
    again, _ = run(tmp_path / "again", *callbacks(), make=Two, path=tmp_path / "epoch=4.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(lit.parameters(), again.parameters(), strict=True))


@works("After fit", "a fresh model tested by the trainer and callback of the run")
def test_a_fresh_model_is_none_of_the_small_one(tmp_path):
    pruning = GDPCallback(0.5)
    _, fitting = run(tmp_path, pruning)
    for epoch in (2, 9):
        fresh = Tested()
        fitting.test(fresh, loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt", verbose=False)
        expected = gdp.load_checkpoint(Tested(), tmp_path / f"epoch={epoch}.ckpt")
        torch.testing.assert_close(outputs(fresh), outputs(expected), rtol=1e-5, atol=1e-5)


@refused(
    "After fit", "a second checkpoint into a model that took one of another size", "Load every checkpoint into a fresh"
)
def test_one_model_takes_one_checkpoint(tmp_path, refusal):
    run(tmp_path, GDPCallback(0.5))
    lit, testing = Tested(), trainer(GDPCallback(0.5))
    testing.test(lit, loader(), ckpt_path=tmp_path / "epoch=3.ckpt", verbose=False)
    before = copy.deepcopy(lit.state_dict())
    with refusal:
        testing.test(lit, loader(), ckpt_path=tmp_path / "epoch=2.ckpt", verbose=False)
    assert all(torch.equal(tensor, lit.state_dict()[name]) for name, tensor in before.items())


class Stop(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 20:
            raise RuntimeError("the power is gone")


@refused(
    "After fit", "a checkpoint into the gated model of an interrupted run", "This network has gates, from a run that"
)
def test_an_interrupted_model_is_not_loaded_into(tmp_path, refusal):
    pruning = GDPCallback(0.5, shrink="end")
    save, lit = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1), Tested()
    with pytest.raises(RuntimeError, match="the power is gone"):
        trainer(pruning, Stop(), save, epochs=10, enable_checkpointing=True).fit(lit, loader())
    with refusal:
        trainer(pruning).test(lit, loader(), ckpt_path=tmp_path / "epoch=3.ckpt", verbose=False)


# what LightningModules do when they load and save


class Teacher(Tested):
    """Its teacher is left out of checkpoints, and comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(3, 3)


class Filtered(Teacher):
    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False

    def state_dict(self, *args, **kw):
        return {k: v for k, v in super().state_dict(*args, **kw).items() if "teacher" not in k}


class Hooked(Teacher):
    def on_save_checkpoint(self, checkpoint):
        for name in ("teacher.weight", "teacher.bias"):
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint):
        checkpoint["state_dict"] |= {f"teacher.{k}": v for k, v in self.teacher.state_dict().items()}


class Late(Tested):
    def __init__(self) -> None:
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = small_net()


class Own(GDPCallback):
    """A callback of the user's."""


class Extra(Tested):
    """Keeps something that is no tensor."""

    kept = 3

    def get_extra_state(self):
        return {"kept": self.kept}

    def set_extra_state(self, state):
        self.kept = state["kept"]


FORMS = [
    pytest.param(Filtered, GDPCallback, id="strict_loading=False"),
    pytest.param(Hooked, GDPCallback, id="on_load_checkpoint"),
    pytest.param(Late, GDPCallback, id="configure_model"),
    pytest.param(Tested, Own, id="subclass"),
    pytest.param(Extra, GDPCallback, id="extra state"),
]


@works(
    "Checkpoints and resume",
    "`strict_loading=False`, `on_save_checkpoint`, `on_load_checkpoint`, `configure_model`, extra state of the user's, "
    "and subclasses of `GDPCallback`",
)
@pytest.mark.parametrize("make, callback", FORMS)
def test_what_users_do_when_they_load(tmp_path, make, callback):
    lit, _ = run(tmp_path, callback(0.5, module="net"), make=make)
    for epoch in (3, 9):
        path, fresh = tmp_path / f"epoch={epoch}.ckpt", make()
        loaded = gdp.load_checkpoint(make(), path)
        trainer(callback(0.5, module="net")).test(fresh, loader(), ckpt_path=path, verbose=False)
        torch.testing.assert_close(outputs(fresh), outputs(loaded), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs(loaded), outputs(lit), rtol=1e-5, atol=1e-5)
    again, _ = run(tmp_path / "again", callback(0.5, module="net"), make=make, path=tmp_path / "epoch=4.ckpt")
    torch.testing.assert_close(outputs(again), outputs(lit))


@pytest.mark.parametrize("make", [Filtered, Extra])
def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path, make):
    run(tmp_path, GDPCallback(0.5, module="net"), make=make)
    lit = make()
    lit.net[5] = nn.Linear(64, 5)
    before = {name: tensor.clone() for name, tensor in lit.named_parameters()}
    with pytest.raises(gdp.GDPError, match=r"belongs to another network|does not fit"):
        gdp.load_checkpoint(lit, tmp_path / "epoch=9.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in lit.named_parameters())


@refused(
    "Bad input",
    "`gdp.load_checkpoint` of a file with objects of other classes",
    "holds other objects (…add_safe_globals",
)
def test_other_objects_are_named(tmp_path, refusal):
    class Saves(Lit):
        def __init__(self, root=Path("x")) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Odd:
        pass

    run(tmp_path, GDPCallback(0.5), make=Saves, epochs=2)
    checkpoint = torch.load(tmp_path / "epoch=1.ckpt", weights_only=False)
    checkpoint["hyper_parameters"]["root"] = torch.nn.Linear(1, 1)
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    with refusal as found:
        gdp.load_checkpoint(Saves(), tmp_path / "odd.ckpt")
    assert "torch.nn.modules.linear.Linear" in str(found.value)


@pytest.mark.parametrize("form", ["compressed", "legacy"])
def test_intact_files_of_other_forms_are_not_called_damaged(tmp_path, form):
    run(tmp_path, GDPCallback(0.5), epochs=2)
    path, other = tmp_path / "epoch=1.ckpt", tmp_path / "other.ckpt"
    if form == "compressed":
        with zipfile.ZipFile(path) as read, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as write:
            for record in read.infolist():
                write.writestr(record.filename, read.read(record))
        gdp.utils.check_intact(other)
    else:
        torch.save(torch.load(path, weights_only=True), other, _use_new_zipfile_serialization=False)
        gdp.utils.check_intact(other)
        torch.testing.assert_close(
            outputs(gdp.load_checkpoint(Lit(), other)), outputs(gdp.load_checkpoint(Lit(), path))
        )


# runs that are not what they were


@works(
    "Checkpoints and resume", "resuming with other `max_epochs`, accumulation or batch size", "the window moves along"
)
@pytest.mark.parametrize("way", ["epoch", "end"])
@pytest.mark.parametrize(
    "kw, total",
    [
        ({"epochs": 6}, 24), ({"epochs": 8}, 32), ({"epochs": 40}, 160), ({"accumulate_grad_batches": 4}, 35),
        ({"batch_size": 64}, 35), ({"batch_size": 8}, 140), ({"max_steps": 30}, 30),
    ],
    ids=str,
)  # fmt: skip
def test_a_resumed_run_may_be_another(tmp_path, way, kw, total):
    run(tmp_path, GDPCallback(0.3, shrink=way), epochs=20)
    pruning, held = GDPCallback(0.3, shrink=way), []

    class Held(Callback):
        def on_train_batch_end(self, *_):
            held.append((pruning.pruner.steps, pruning.pruner.done, pruning.pruner.total_steps))

    options = {"epochs": 20} | {k: v for k, v in kw.items() if k != "batch_size"}
    data = loader(batch_size=kw.get("batch_size", 16))
    trainer(pruning, Held(), **options).fit(Tested(), data, ckpt_path=tmp_path / "epoch=4.ckpt")
    assert 0.29 <= pruning.report.remaining <= 0.3
    assert held[-1] == (total, True, total)
    assert next(step for step, done, _ in held if done) == max(21, round(0.6 * total))


class Turns(Tested):
    """Two optimizers take turns, batch by batch: `turn` says which of them steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization, self.critic = False, nn.Linear(4, 1)

    def turn(self, batch_idx: int) -> int:
        return self.global_step % 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.critic.parameters(), 0.01), torch.optim.SGD(self.net.parameters(), 0.05)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[self.turn(batch_idx)]
        optimizer.zero_grad()
        out = self.net(batch[0])
        self.manual_backward(self.loss(out, batch[1]) + self.critic(out).mean())
        optimizer.step()


class Seldom(Turns):
    """The network's optimizer steps in every fourth batch."""

    def turn(self, batch_idx: int) -> int:
        return int(batch_idx % 4 == 3)


@works("Training loop", "steps of another optimizer than the network's", "they move no gate")
def test_steps_of_others_move_no_gate():
    values, pruning = [], GDPCallback(0.5, module="net", shrink="end")

    class Look(Callback):
        def on_train_batch_end(self, *_):
            values.append(pruning.pruner.gates.values.clone())

    trainer(pruning, Look(), epochs=30).fit(Seldom(), loader())
    changes = [i for i in range(1, len(values)) if not torch.equal(values[i], values[i - 1])]
    assert len(changes) > 5 and all(i % 4 == 3 for i in changes) and changes[-1] < 0.7 * 120
    assert 0.49 <= pruning.report.remaining <= 0.5


# networks that stay behind


@works("After fit", "copies that the user made of the gated network, in the LightningModule", "become plain as well")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_copies_become_plain(way):
    class Best(Lit):
        def on_train_epoch_end(self):
            if self.current_epoch == 4:
                self.__dict__["expected"] = outputs(self.net)
                self.best = copy.deepcopy(self.net)
                self.train()

    lit = Best()
    trainer(GDPCallback(0.5, module="net", shrink="end" if way == "end" else 100), epochs=10).fit(lit, loader())
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())
    assert all(type(m).__module__ != "gdp.readers" for m in lit.modules())
    torch.testing.assert_close(outputs(lit.best), lit.expected, rtol=1e-5, atol=1e-5)


@works(
    "Failures",
    "another model with the callback of an interrupted run",
    "the first one becomes plain and stays as it was",
)
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_another_model_after_an_interrupted_run(way):
    first, pruning = Lit(), GDPCallback(0.5, shrink=way)
    with pytest.raises(RuntimeError, match="the power is gone"):
        trainer(pruning, Stop(), epochs=10).fit(first, loader())
    expected = outputs(first)
    with pytest.warns(UserWarning, match=r"is left as it was, without gates.*remove_zeros"):
        trainer(pruning, epochs=4).fit(Lit(), loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
    torch.testing.assert_close(outputs(first), expected)
    assert not any(name.endswith("_gdp_gate") for name in first.state_dict())
    report = gdp.remove_zeros(first.net, X[:1])
    assert report.remaining < 1 or way == "epoch"  # nothing is left to cut
    torch.testing.assert_close(outputs(first), expected, rtol=1e-5, atol=1e-5)


def resumed_steps(tmp_path, make, step, epochs, **kw):
    """How long the pruner takes a run to be, and how many steps it was told of, when resumed after that step."""
    save = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer(*kw.pop("first", [GDPCallback(0.5, module="net")]), save, epochs=2, enable_checkpointing=True).fit(
        make(), loader()
    )
    pruning, seen = GDPCallback(0.5, module="net"), []

    class Look(Callback):
        def on_train_batch_end(self, *_):
            seen.append((pruning.pruner.total_steps, pruning.pruner.steps))

    trainer(pruning, Look(), epochs=epochs).fit(make(), loader(), ckpt_path=tmp_path / f"step={step}.ckpt")
    return seen[-1]


@pytest.mark.parametrize("step", [1, 3, 4, 6, 7])
def test_a_longer_run_inside_an_epoch(tmp_path, step):
    assert resumed_steps(tmp_path, Tested, step, 3) == (12, 12)


@pytest.mark.parametrize("step", [1, 3, 4, 6, 7])
def test_a_dense_run_inside_an_epoch(tmp_path, step):
    assert resumed_steps(tmp_path, Tested, step, 3, first=[]) == (12 - step, 12 - step)


@works("Checkpoints and resume", "optimizers that take turns", "no step is counted twice")
@pytest.mark.parametrize("step", [1, 2, 5, 6, 7])
def test_turns_are_resumed(tmp_path, step):
    assert resumed_steps(tmp_path, Turns, step, 2)[1] == 4
