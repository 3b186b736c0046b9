"""trainer.test with checkpoints from any moment, in modules with hooks, averages and states of their own."""

import copy
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.features import refused, works
from helpers.resuming import Testable, run
from helpers.training import Lit, LitWithAverage, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import nn

import gdp
from gdp import GDPCallback

pytestmark = pytest.mark.slow


AVERAGES = {
    "none": list,
    "ema": lambda: [EMAWeightAveraging(decay=0.9)],
    "swa": lambda: [StochasticWeightAveraging(0.01, 7)],
}


WITH_AVERAGES = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES.keys())


class AveragedTestable(LitWithAverage):
    test_step = Testable.test_step


@works("After fit", "`trainer.test(ckpt_path=...)` beside weight averaging", "same process, or a fresh model")
@WITH_AVERAGES
@pytest.mark.parametrize("epoch", [3, 9, "after"])
def test_averages_and_checkpoints_that_are_tested(tmp_path, average, epoch):
    pruning = GDPCallback(0.5)
    lit, fitting = run(tmp_path, pruning, *average())
    fitting.save_checkpoint(tmp_path / "epoch=after.ckpt")
    path = tmp_path / f"epoch={epoch}.ckpt"
    fresh = Testable()
    # under torch 2.9 a checkpoint of StochasticWeightAveraging holds a method, which Lightning reads only when told to
    kw = {"ckpt_path": path, "weights_only": False, "verbose": False}
    trainer(GDPCallback(0.5), *average()).test(fresh, loader(), **kw)
    expected = outputs(gdp.load_checkpoint(Testable(), path))
    torch.testing.assert_close(outputs(fresh), expected, rtol=1e-5, atol=1e-5)
    if epoch != 3:
        fitting.test(lit, loader(), **kw)
        assert [p.shape for p in lit.parameters()] == [p.shape for p in fresh.parameters()]


@works("Checkpoints and resume", "a checkpoint from after the cut, with averages")
@pytest.mark.parametrize("make", [Testable, AveragedTestable])
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


@works("After fit", "a fresh model tested by the trainer and callback of the run")
def test_a_fresh_model_is_none_of_the_small_one(tmp_path):
    pruning = GDPCallback(0.5)
    _, fitting = run(tmp_path, pruning)
    for epoch in (2, 9):
        fresh = Testable()
        fitting.test(fresh, loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt", verbose=False)
        expected = gdp.load_checkpoint(Testable(), tmp_path / f"epoch={epoch}.ckpt")
        torch.testing.assert_close(outputs(fresh), outputs(expected), rtol=1e-5, atol=1e-5)


@refused(
    "After fit", "a second checkpoint into a model that took one of another size", "Load every checkpoint into a fresh"
)
def test_one_model_takes_one_checkpoint(tmp_path, refusal):
    run(tmp_path, GDPCallback(0.5))
    lit, testing = Testable(), trainer(GDPCallback(0.5))
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
    save, lit = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1), Testable()
    with pytest.raises(RuntimeError, match="the power is gone"):
        trainer(pruning, Stop(), save, epochs=10, enable_checkpointing=True).fit(lit, loader())
    with refusal:
        trainer(pruning).test(lit, loader(), ckpt_path=tmp_path / "epoch=3.ckpt", verbose=False)


class Teacher(Testable):
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


class Late(Testable):
    def __init__(self) -> None:
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = small_net()


class Own(GDPCallback):
    """A callback of the user's."""


class Extra(Testable):
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
    pytest.param(Testable, Own, id="subclass"),
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
