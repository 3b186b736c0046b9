"""Checkpoints: what is in them, who can load them, and what a user may do with a network once it is small."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import refused, works
from helpers.training import Direct, Lit, LitWithAverage, LitWithBlocks, X, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import nn

import gdp
from gdp import GDPCallback


def resume(feature, note=""):
    return works("Checkpoints and resume", feature, note)


def after(feature, note=""):
    return works("After fit", feature, note)


class Outputs(Callback):
    """What the gated network computes when each checkpoint is written."""

    def __init__(self) -> None:
        self.at = {}

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        was = pl_module.training
        self.at[trainer.current_epoch] = outputs(pl_module)
        pl_module.train(was)


class Tied(Lit):
    """Two layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        second.weight = first.weight
        self.net = nn.Sequential(*self.net[:2], first, nn.ReLU(), second, nn.ReLU(), *self.net[2:])


def written(tmp_path, make=Lit, way="epoch", epochs=10, target=0.5, **options):
    pl.seed_everything(0)
    seen, save = Outputs(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    lit, pruning = make(), GDPCallback(target, shrink=way, **options)
    run = trainer(pruning, save, seen, epochs=epochs, enable_checkpointing=True)
    run.fit(lit, loader(), loader())
    paths = {int(path.stem.removeprefix("epoch=")): path for path in tmp_path.glob("epoch=*.ckpt")}
    return lit, pruning, run, paths, seen


@resume("`gdp.load_checkpoint(LitModel(), path)` of a checkpoint from inside the run", "plain, closed channels cut")
@pytest.mark.parametrize("way", ["epoch", "end"])
@pytest.mark.parametrize(
    "make, options",
    [(Lit, {}), (Direct, {"module": ""}), (LitWithAverage, {"module": "net"}), (Tied, {})],
    ids=["usual", "direct", "with an average", "tied weights"],
)
def test_a_checkpoint_loads_as_the_network_it_was(tmp_path, make, options, way):
    lit, _, _, paths, seen = written(tmp_path, make, way, **options)
    for epoch in (0, 2, 3, 5, 9):
        loaded = gdp.load_checkpoint(make(), paths[epoch])
        torch.testing.assert_close(outputs(loaded), seen.at[epoch], rtol=1e-5, atol=1e-5)
        assert not any(name.endswith("_gdp_gate") for name in loaded.state_dict())
        assert all(type(m).__module__ != "gdp.readers" for m in loaded.modules())
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in lit.parameters()]
    torch.testing.assert_close(outputs(loaded), outputs(lit), rtol=1e-5, atol=1e-5)
    if make is LitWithAverage:
        torch.testing.assert_close(outputs(loaded.mean), outputs(lit.mean), rtol=1e-5, atol=1e-5)


@resume("blocks that go as a whole, in a checkpoint")
def test_blocks_are_gone_in_a_loaded_checkpoint_as_well(tmp_path):
    target = 0.9 * gdp.check(LitWithBlocks().net, X[:1]).remaining
    lit, pruning, _, paths, _ = written(tmp_path, LitWithBlocks, blocks=True, target=target)
    assert pruning.report.blocks
    loaded = gdp.load_checkpoint(LitWithBlocks(), paths[9])
    torch.testing.assert_close(outputs(loaded), outputs(lit), rtol=1e-5, atol=1e-5)


@resume("`gdp.load_checkpoint(LitModel(), path)` of a checkpoint from after the cut", "`gdp.save_pruned` knows it")
def test_a_checkpoint_from_after_the_cut(tmp_path):
    lit, _, run, _, _ = written(tmp_path)
    run.save_checkpoint(tmp_path / "small.ckpt")
    loaded = gdp.load_checkpoint(Lit(), tmp_path / "small.ckpt")
    assert torch.equal(outputs(loaded), outputs(lit))
    gdp.save_pruned(loaded.net, tmp_path / "small.pt")
    again = gdp.load_pruned(small_net(), tmp_path / "small.pt")
    assert torch.equal(outputs(again), outputs(lit))


@resume("`fit(ckpt_path=...)` of a checkpoint from after the cut", "a fresh model is made small and trained on")
def test_a_run_goes_on_from_a_checkpoint_from_after_the_cut(tmp_path):
    lit, pruning, run, _, _ = written(tmp_path, epochs=6)
    run.save_checkpoint(tmp_path / "small.ckpt")
    more, report = [], pruning.report
    for model, callback in ((Lit(), GDPCallback(0.5)), (lit, pruning)):
        run = trainer(callback, epochs=8)
        run.fit(model, loader(), ckpt_path=tmp_path / "small.ckpt")
        assert run.global_step == 32 and callback.report.plan == report.plan
        assert all(s["momentum_buffer"].shape == p.shape for p, s in run.optimizers[0].state.items())
        more.append(model)
    assert all(torch.equal(a, b) for a, b in zip(more[0].parameters(), more[1].parameters(), strict=True))


@resume("`fit(ckpt_path=...)` of a run without gdp", "pruned in what is left of the run")
@pytest.mark.parametrize("average", [False, True])
def test_a_dense_run_is_gone_on_with(tmp_path, average):
    def callbacks(*own):
        return [*own, *([EMAWeightAveraging(decay=0.9)] if average else [])]

    trainer(*callbacks(ModelCheckpoint(tmp_path, filename="dense")), epochs=5, enable_checkpointing=True).fit(
        Lit(), loader()
    )
    pruning, held = GDPCallback(0.5), []

    class Held(Callback):
        def on_train_batch_end(self, trainer, *_):
            held.append((trainer.global_step, pruning.pruner.done))

    lit = Lit()
    trainer(*callbacks(pruning, Held()), epochs=15).fit(lit, loader(), ckpt_path=tmp_path / "dense.ckpt")
    assert held[0][0] == 21 and len(held) == 40
    assert next(step for step, done in held if done) == 20 + 0.6 * 40
    assert 0.49 <= pruning.report.remaining <= 0.5


@resume("a dense run that is over already", "nothing is removed, and a warning says so")
def test_a_dense_run_that_is_over(tmp_path):
    trainer(ModelCheckpoint(tmp_path, filename="dense"), epochs=2, enable_checkpointing=True).fit(Lit(), loader())
    lit, pruning = Lit(), GDPCallback(0.5)
    with pytest.warns(UserWarning, match="no training step was made"):
        trainer(pruning, epochs=2).fit(lit, loader(), ckpt_path=tmp_path / "dense.ckpt")
    assert pruning.report is None and lit.net[1][0].out_channels == 16
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())


@refused(
    "Checkpoints and resume",
    "resuming a run with gates from a checkpoint of `save_weights_only=True`, or with another `module`",
    "The checkpoint has gates but says nothing of this GDPCallback",
)
@pytest.mark.parametrize("case", ["weights only", "module"])
def test_checkpoints_of_another_callback(tmp_path, case, refusal):
    save = ModelCheckpoint(tmp_path, filename="gates", save_weights_only=case == "weights only")
    trainer(GDPCallback(0.5, module="net"), save, epochs=2, enable_checkpointing=True).fit(Lit(), loader())
    other = GDPCallback(0.5, module="net" if case == "weights only" else None)
    with refusal:
        trainer(other, epochs=4).fit(Lit(), loader(), ckpt_path=tmp_path / "gates.ckpt")


@resume("`gdp.load_checkpoint` of `ModelCheckpoint(save_weights_only=True)`", "as long as no channel was cut by then")
def test_weights_alone_load_as_long_as_nothing_was_cut(tmp_path):
    seen, save = Outputs(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_weights_only=True)
    pruning = GDPCallback(0.5, method=gdp.Polar(start=0.3, end=0.8, closing=500))
    lit = Lit()

    class Note(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.on_save_checkpoint(trainer, pl_module, {})

    trainer(pruning, Note(), save, epochs=10, enable_checkpointing=True).fit(lit, loader())
    loaded = gdp.load_checkpoint(Lit(), tmp_path / "epoch=1.ckpt")
    torch.testing.assert_close(outputs(loaded), seen.at[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(gdp.GDPError, match=r"save_weights_only=True.*Write checkpoints without that option"):
        gdp.load_checkpoint(Lit(), tmp_path / "epoch=9.ckpt")


@refused("Checkpoints and resume", "resuming into a network that is small already", "Build the network anew")
@pytest.mark.parametrize("how", ["same callback", "another callback"])
def test_a_small_network_can_not_go_back(tmp_path, how, refusal):
    lit, pruning, _, paths, _ = written(tmp_path)
    state = {name: tensor.clone() for name, tensor in lit.state_dict().items()}
    callback = pruning if how == "same callback" else GDPCallback(0.5)
    with refusal:
        trainer(callback, epochs=10).fit(lit, loader(), ckpt_path=paths[3])
    assert all(torch.equal(tensor, lit.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.slow
@resume("a callback that saves between the optimizer's step and the gates'")
@pytest.mark.parametrize("way", ["end", 4])
def test_saving_before_gdp_has_its_turn(tmp_path, way):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in (10, 14, 18, 30):
                trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    def run(*before, path=None):
        pl.seed_everything(0)
        lit, pruning = Lit(), GDPCallback(0.5, shrink=way)
        batch = [loader().dataset[i] for i in range(16)] * 4  # Lightning begins an epoch's data anew
        trainer(*before, pruning, epochs=10).fit(lit, torch.utils.data.DataLoader(batch, 16), ckpt_path=path)
        return lit.state_dict()

    whole = run(Save())
    for step in (10, 14, 18, 30):
        again = run(path=tmp_path / f"{step}.ckpt")
        for name, value in whole.items():
            torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)


# after fit


class Testable(Lit):
    def test_step(self, batch, batch_idx):
        self.log("test", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def predict_step(self, batch, batch_idx):
        return self(batch[0])


@after("`trainer.test`, `validate` and `predict` with the model")
def test_the_small_network_is_evaluated(tmp_path):
    lit, _, run, _, _ = written(tmp_path, Testable)
    tested = run.test(lit, loader(), verbose=False)[0]["test"]
    validated = run.validate(lit, loader(), verbose=False)[0]["val"]
    predicted = torch.cat(run.predict(lit, loader()))
    right = (predicted.argmax(1) == torch.cat([y for _, y in loader()])).float().mean()
    assert tested == validated == pytest.approx(right.item())


@after(
    "`trainer.test(ckpt_path=...)`: `best`, `last`, or a file",
    "if all channels were closed by then; else refused, see above",
)
@pytest.mark.parametrize("way", ["epoch", "end"])
@pytest.mark.parametrize("given", ["best", "last", "path", "nothing"])
def test_a_checkpoint_from_after_the_window_is_evaluated(tmp_path, way, given):
    pl.seed_everything(0)
    seen, save = Outputs(), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_last="link")
    best = ModelCheckpoint(tmp_path / "best", monitor="late", mode="max", filename="{epoch}")
    lit, pruning = Testable(), GDPCallback(0.5, shrink=way)

    class Late(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.log("late", float(trainer.current_epoch == 7))

    run = trainer(Late(), pruning, best, save, seen, epochs=10, enable_checkpointing=True)
    run.fit(lit, loader())
    final, report = outputs(lit), pruning.report
    path = {"path": tmp_path / "epoch=8.ckpt", "nothing": None}.get(given, given)
    run.test(lit if given == "path" else None, dataloaders=loader(), ckpt_path=path, verbose=False)
    epoch = {"path": 8, "last": 9}.get(given, 7)
    torch.testing.assert_close(outputs(lit), seen.at[epoch], rtol=1e-5, atol=1e-5)
    assert pruning.report is report and not (epoch < 9 and torch.equal(final, outputs(lit)))


@after(
    "`trainer.test(LitModel(), ckpt_path=...)` with a `GDPCallback` in a new process", "the model becomes what it was"
)
def test_a_fresh_model_takes_the_checkpoint(tmp_path):
    _, _, _, paths, seen = written(tmp_path, Testable)
    for epoch in (0, 3, 9):
        lit = Testable()
        trainer(GDPCallback(0.5)).test(lit, loader(), ckpt_path=paths[epoch], verbose=False)
        torch.testing.assert_close(outputs(lit), seen.at[epoch], rtol=1e-5, atol=1e-5)


@after("a second `fit`: same callback, no callback, new callback", "trains on; a new callback prunes what is left")
def test_a_second_fit(tmp_path):
    lit, pruning, *_ = written(tmp_path, epochs=6)
    small, first = [p.shape for p in lit.parameters()], pruning.report
    for callbacks in ([pruning], []):
        before = lit.net[0][0].weight.detach().clone()
        trainer(*callbacks, epochs=1).fit(lit, loader())
        assert [p.shape for p in lit.parameters()] == small and not torch.equal(lit.net[0][0].weight, before)
    assert pruning.report is first
    again = GDPCallback(0.6)
    trainer(again, epochs=6).fit(lit, loader())
    assert 0.58 <= again.report.remaining <= 0.6
    assert again.report.flops_before == first.flops_after
    gdp.save_pruned(lit.net, tmp_path / "twice.pt")
    assert torch.equal(outputs(gdp.load_pruned(small_net(), tmp_path / "twice.pt")), outputs(lit))


@after("training a loaded network on", "without gdp or with a new callback")
@pytest.mark.parametrize("callbacks", [list, lambda: [GDPCallback(0.7)]], ids=["plain", "again"])
def test_a_loaded_network_is_trained_on(tmp_path, callbacks):
    lit, *_ = written(tmp_path, epochs=6)
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    other, more = Lit(), callbacks()
    gdp.load_pruned(other.net, tmp_path / "small.pt")
    before = outputs(other)
    trainer(*more, epochs=6).fit(other, loader())
    assert not torch.equal(outputs(other), before)
    for callback in more:
        assert 0.68 <= callback.report.remaining <= 0.7


@after("`copy.deepcopy` and `torch.save` of the module, gated or small")
@pytest.mark.parametrize("moment", [3, 9])
def test_copies_and_pickles(tmp_path, moment):
    class Copies(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == moment:
                net, training = pl_module.net, pl_module.training
                torch.save(net, tmp_path / "net.pt")
                self.outputs = outputs(net)
                self.twins = [copy.deepcopy(net), torch.load(tmp_path / "net.pt", weights_only=False)]
                pl_module.train(training)

    copies = Copies()
    trainer(GDPCallback(0.5), copies, epochs=10).fit(Lit(), loader())
    for twin in copies.twins:
        assert torch.equal(outputs(twin), copies.outputs)
