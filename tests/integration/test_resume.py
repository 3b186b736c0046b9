"""Runs that are resumed into other lengths, with optimizers that take turns, with several callbacks."""

import pytest
import torch
from helpers.features import refused, works
from helpers.resuming import Testable, Turns, run
from helpers.training import LitWithBlocks, X, loader, outputs, small_net, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

import gdp
from gdp import GDPCallback


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


class Two(Testable):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.net = small_net(), small_net(), None

    def forward(self, x):
        return self.a(x) + self.b(x)


@pytest.mark.slow
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


@pytest.mark.slow
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
    trainer(pruning, Held(), **options).fit(Testable(), data, ckpt_path=tmp_path / "epoch=4.ckpt")
    assert 0.29 <= pruning.report.remaining <= 0.3
    assert held[-1] == (total, True, total)
    assert next(step for step, done, _ in held if done) == max(21, round(0.6 * total))


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
    assert resumed_steps(tmp_path, Testable, step, 3) == (12, 12)


@pytest.mark.parametrize("step", [1, 3, 4, 6, 7])
def test_a_dense_run_inside_an_epoch(tmp_path, step):
    assert resumed_steps(tmp_path, Testable, step, 3, first=[]) == (12 - step, 12 - step)


@works("Checkpoints and resume", "optimizers that take turns", "no step is counted twice")
@pytest.mark.parametrize("step", [1, 2, 5, 6, 7])
def test_turns_are_resumed(tmp_path, step):
    assert resumed_steps(tmp_path, Turns, step, 2)[1] == 4
