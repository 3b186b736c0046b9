"""Runs with every kind of method: target, resuming, methods of one's own, methods in a config."""

from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import works
from helpers.training import Data, Lit, loader, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI

import gdp
from gdp import Annealed, GDPCallback

QUICK = Annealed(every=1, pace=2.0, annealing=(0.3, 0.02))  # learns something in a window of twenty steps


class Gates(Callback):
    """The gates after every batch."""

    def __init__(self, pruning):
        self.pruning, self.values = pruning, []

    def on_train_batch_end(self, *_):
        self.values.append(self.pruning.pruner.gates.values.clone())


def fit(method, target=0.5, shrink="epoch", **kw):
    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(target, method=method, shrink=shrink)
    gates = Gates(pruning)
    run = trainer(pruning, gates, **({"epochs": 10} | kw))
    run.fit(lit, loader(), loader())
    return lit, pruning, gates.values, pruning.options.method.window(run.global_step).end


RUNS = [
    ("annealed", {}),
    (QUICK, {"target": 0.3}),
    (Annealed(held_out="val"), {}),
    (QUICK, {"shrink": "end"}),
    (QUICK, {"shrink": 3}),
    (QUICK, {"precision": "bf16-mixed"}),
    (QUICK, {"accumulate_grad_batches": 2, "epochs": 20}),
]


@works("Methods", '`method="annealed"`', "a fifth of the training data is held out for the gates")
@pytest.mark.parametrize(
    "method, kw", RUNS, ids=["usual", "target", "val", "at the end", "steps", "bf16", "accumulated"]
)
def test_a_run_meets_the_target_exactly(method, kw):
    target = kw.get("target", 0.5)
    lit, pruning, values, end = fit(method, **kw)
    report = pruning.report
    assert target - 0.01 <= report.remaining <= target and report.max_rel <= 1e-5
    assert gdp.utils.count_flops(lit.net, torch.zeros(1, 3, 12, 12)) == report.flops_after == report.flops_predicted
    # gates are closed or above one half from the end of the window on, and no group is ever empty
    settled, end = values[-1], end * kw.get("accumulate_grad_batches", 1)
    assert ((settled == 0) | (settled > 0.5)).all() and 0 < (settled == 0).sum() < len(settled)
    assert all(torch.equal(now, settled) for now in values[end:]) and end < len(values)
    assert all((group > 0).any() for now in values for group in now.split([8, 16, 16]))
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())
    assert {type(m).__module__.split(".")[0] for m in lit.modules()} == {"torch", "helpers"}


def test_indicators_part_inside_the_window():
    """On the way some are half open, and before the window ends all are on the side on which they will be."""
    _, _, values, end = fit(QUICK, epochs=30)
    before, settled = values[end - 2], values[-1]
    assert any(((v > 0) & (v < 0.5)).any() and (v > 0.9).any() for v in values[: end - 2])
    assert before[settled > 0].min() > 0.5 > before[settled == 0].max()


@pytest.mark.slow
@works("Methods", 'resuming with `method="annealed"`', "bit for bit the uninterrupted run")
@pytest.mark.parametrize(
    "method", ["annealed", QUICK, Annealed(held_out="val", every=2)], ids=["usual", "quick", "val"]
)
def test_resumed_equals_uninterrupted(tmp_path, method):
    def run(resume=None):
        pl.seed_everything(0)
        lit, pruning = Lit(), GDPCallback(0.4, method=method)
        save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        run = trainer(pruning, save, epochs=10, enable_checkpointing=True)
        run.fit(lit, loader(), loader(), ckpt_path=resume)
        return lit, pruning.report

    whole, report = run()
    checkpoints = {int(p.stem.split("=")[1]): p for p in tmp_path.glob("epoch=?.ckpt")}
    for epoch in (0, 3, 4, 8):  # where the window opens, inside, and after it
        state = torch.load(checkpoints[epoch], weights_only=True)["callbacks"]
        (saved,) = [found["pruner"] for found in state.values() if found.get("pruner")]
        assert saved["method_state"]["learned"] > 0 and saved["done"] == (epoch == 8)
        again, report_again = run(checkpoints[epoch])
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
        assert report_again.plan == report.plan and report_again.flops_after == report.flops_after


@pytest.mark.parametrize("kinds", [("polar", "annealed"), ("annealed", "polar")], ids="-".join)
def test_a_run_is_not_resumed_with_another_method(tmp_path, kinds):
    save = ModelCheckpoint(tmp_path, filename="gates")
    trainer(GDPCallback(0.5, method=kinds[0]), save, epochs=3, enable_checkpointing=True).fit(Lit(), loader())
    lit = Lit()
    keys = list(lit.state_dict())
    with pytest.raises(
        gdp.GDPError, match=rf"written with the method {kinds[0].title()}, .*GDPCallback\(method=\.\.\.\)"
    ):
        trainer(GDPCallback(0.5, method=kinds[1]), epochs=6).fit(lit, loader(), ckpt_path=tmp_path / "gates.ckpt")
    assert list(lit.state_dict()) == keys


@dataclass(frozen=True)
class Lottery(gdp.PruningMethod):
    """A third method, in a few lines: linear gates, and an importance that is drawn by lot."""

    temperatures = (1.0, 1.0)

    def value(self, gate_param, temperature):
        return gate_param

    def init_state(self, channels):
        return {"luck": torch.rand(channels, generator=torch.Generator().manual_seed(0))}

    def importance(self, state, context):
        return state["luck"]

    def step(self, state, context):
        gate_param, step = context.gate_param, 1 / context.window.closing
        down = torch.where(gate_param <= 1.5 * step, 0.0, gate_param - step)
        return torch.where(context.chosen, torch.where(gate_param > 0, gate_param + step, 0.0).clamp_max(1.0), down)

    def finalize(self, state, context):
        return torch.where(context.chosen, context.gate_param.clamp_min(0.6), 0.0)


@works("Methods", "a method of one's own", "one subclass of `gdp.PruningMethod`")
def test_a_method_of_ones_own_is_one_small_class():
    _, pruning, trail, _ = fit(Lottery(end=0.7), target=0.4)
    assert 0.39 <= pruning.report.remaining <= 0.4 and pruning.report.max_rel <= 1e-5
    assert any(((values > 0.1) & (values < 0.9)).any() for values in trail)
    luck, start = Lottery().init_state(40)["luck"], 0
    for (_, kept, total), values in zip(pruning.report.groups, trail[-1].split([8, 16, 16]), strict=True):
        mine, start = luck[start : start + total], start + total
        assert set(mine.topk(kept).indices.tolist()) == set(values.nonzero().flatten().tolist())


KINDS = [("annealed", Annealed()), ("polar", gdp.Polar())]


KINDS += [("{class_path: gdp.Annealed, init_args: {held_out: 0.1, every: 2}}", Annealed(held_out=0.1, every=2))]


@pytest.mark.parametrize("written, expected", KINDS, ids=[written for written, _ in KINDS])
def test_a_config_chooses_the_gates(tmp_path, written, expected):
    (tmp_path / "config.yaml").write_text(f"""
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  callbacks:
    - class_path: gdp.GDPCallback
      init_args: {{target_flops: 0.5, method: {written}}}
""")
    options = {"args": [f"--config={tmp_path}/config.yaml"], "run": False, "seed_everything_default": 0}
    cli = LightningCLI(Lit, Data, save_config_callback=None, **options)
    (pruning,) = [c for c in cli.trainer.callbacks if isinstance(c, GDPCallback)]
    assert pruning.options.method == expected and type(pruning.options.method) is type(expected)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert 0.49 <= pruning.report.remaining <= 0.5
