"""Held-out batches: what the gates learn on, the weights never see, and nothing else of a run notices.

Run as a script by a test below: two processes, each with its own share of the data.
"""

import json
import multiprocessing
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers import features
from helpers.training import Lit, Stream, images, loader, trainer, two_processes
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from scripts.strategies_script import Last
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SubsetRandomSampler

import gdp
from gdp import Annealed, GDPCallback

pytestmark = pytest.mark.slow


IMAGES = images()


class Numbered(Dataset):
    """Images that know their number."""

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return (*IMAGES[i], i)


class Noise(Callback):
    """What a process remembers of its gradients is off in the last digits, as sums on a GPU may be."""

    def __init__(self, pruning):
        self.pruning = pruning

    def on_train_batch_start(self, trainer, *_):
        if self.pruning.pruner is not None:
            remembered = self.pruning.pruner.method_state["sensitivity"]
            remembered *= torch.linspace(1, 1 + 1e-3 * trainer.global_rank, len(remembered))


class Seen(Lit):
    """Notes which samples `training_step` got, which of them were trained on, and which were validated."""

    def __init__(self):
        super().__init__()
        self.steps, self.trained, self.validated = [], [], []

    def training_step(self, batch, batch_idx):
        self.steps.append(batch[2].tolist())
        self.log("first", float(batch[2][0]), on_step=True, on_epoch=True, batch_size=1)
        self.log_dict({"second": float(batch[2][1])})
        return super().training_step(batch[:2], batch_idx)

    def on_before_backward(self, loss):
        self.trained.append(self.steps[-1])

    def validation_step(self, batch, batch_idx):
        self.validated += batch[2].tolist()

    @property
    def learned(self):
        """Batches of the gates: those that no backward pass followed."""
        return [step for step in self.steps if not any(step is other for other in self.trained)]


def numbered(batch=8, **kw):
    return DataLoader(Numbered(), batch, **kw)


def flat(batches):
    return {i for batch in batches for i in batch}


def fit(method, *callbacks, seed=0, data=None, val=None, **kw):
    pl.seed_everything(seed)
    lit, pruning = Seen(), GDPCallback(0.5, method=method)
    run = trainer(pruning, *callbacks, **({"epochs": 8, "num_sanity_val_steps": 0} | kw))
    run.fit(lit, data or numbered(shuffle=True), val)
    assert 0.49 <= pruning.report.remaining <= 0.5
    return lit, pruning, run


@pytest.mark.parametrize("kw", [{}, {"accumulate_grad_batches": 2}, {"reload_dataloaders_every_n_epochs": 1}], ids=str)
def test_weights_and_gates_learn_on_different_samples(kw):
    lit, _, run = fit(Annealed(held_out=0.25, every=2), val=numbered(), **kw)
    held, rest = flat(lit.learned), flat(lit.trained)
    assert not held & rest and held | rest == set(range(64)) and len(held) == 16
    assert len(lit.trained) == 8 * 6 and {len(batch) for batch in lit.steps} == {8}
    # inside the window, at every second step of the optimizer
    steps = run.global_step
    window = gdp.Polar().window(steps)
    assert len(lit.learned) == sum(step % 2 == 0 for step in range(window.start, window.end))
    assert lit.validated == list(range(64)) * 8


def test_data_of_a_hook_are_split_as_well():
    class Hooked(Seen):
        def train_dataloader(self):
            return numbered()

    lit = Hooked()
    trainer(GDPCallback(0.5, method=Annealed(held_out=0.25))).fit(lit)
    held, rest = flat(lit.learned), flat(lit.trained)
    assert len(held) == 16 and len(rest) == 48 and not held & rest


def test_every_held_out_sample_has_its_turn_before_one_comes_again():
    lit, *_ = fit(Annealed(held_out=0.25, every=1), epochs=20)
    turns = [flat(lit.learned[i : i + 2]) for i in range(0, len(lit.learned) // 2 * 2, 2)]
    assert len(turns) > 20 and all(len(turn) == 16 for turn in turns)
    assert len({tuple(batch) for batch in lit.learned}) > 20


@features.works("Methods", '`method=gdp.Annealed(held_out="val")`', "the gates learn on the validation data")
def test_the_validation_data_teach_the_gates_and_are_validated_as_ever():
    class Other(Numbered):
        def __getitem__(self, i):
            return (*IMAGES[i], 100 + i)

    lit, *_ = fit(Annealed(held_out="val", every=2), val=DataLoader(Other(), 16))
    assert flat(lit.trained) == set(range(64)) and len(lit.trained) == 8 * 8
    assert flat(lit.learned) == set(range(100, 164)) and {len(batch) for batch in lit.learned} == {16}
    assert lit.validated == list(range(100, 164)) * 8


def test_the_split_is_the_same_in_every_run():
    held = [flat(fit("annealed", seed=seed, epochs=20)[0].learned) for seed in (0, 1)]
    assert held[0] == held[1] and len(held[0]) == 13


class Grads(Callback):
    """The gradients and weights, as they are before or after gdp's turn."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        parts = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in pl_module.parameters()]
        self.seen.append((len(pl_module.learned), parts))


def test_a_held_out_batch_writes_no_gradient_and_moves_no_weight():
    pl.seed_everything(0)
    lit, pruning, before, after = Seen(), GDPCallback(0.5, method=Annealed(every=1), shrink="end"), Grads(), Grads()
    lit.net[0][1].bias.requires_grad_(False)
    trainer(before, pruning, after).fit(lit, numbered())
    learned = 0
    for (count, one), (more, other) in zip(before.seen, after.seen, strict=True):
        learned += more - count
        for (weight, grad), (weight_after, grad_after) in zip(one, other, strict=True):
            assert torch.equal(weight, weight_after)
            assert (grad is None) == (grad_after is None) and (grad is None or torch.equal(grad, grad_after))
    assert learned == len(lit.learned) > 10


def test_a_held_out_batch_logs_nothing(tmp_path):
    lit, _, run = fit(
        Annealed(every=1), data=numbered(), logger=CSVLogger(tmp_path), log_every_n_steps=1, num_sanity_val_steps=0
    )
    header, *rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    lines = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    for name, place in (("first_step", 0), ("second", 1)):
        assert [float(line[name]) for line in lines if line[name]] == [batch[place] for batch in lit.trained]
    last = [batch[0] for batch in lit.trained[-len(lit.trained) // 8 :]]
    assert run.callback_metrics["first_epoch"] == pytest.approx(sum(last) / len(last)) and lit.learned


def parts(run, lit, data):
    """Everything that gdp could have hung something on."""
    sources = run.fit_loop._data_source, run.fit_loop.epoch_loop.val_loop._data_source
    names = [sorted(vars(part)) for part in (*sources, run.fit_loop, run.strategy, run.precision_plugin)]
    own = {name: value for name, value in vars(data).items() if not name.startswith("__pl")}  # else Lightning's records
    return names, {name: value for name, value in vars(lit).items() if callable(value)}, own


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("source", [0.2, "val"])
def test_nothing_is_left_behind(source, fails):
    class Fails(Seen):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if fails and len(self.learned) == 3:
                raise RuntimeError("out of order")
            return loss

    plain, run = trainer(), trainer(GDPCallback(0.5, method=Annealed(held_out=source)))
    plain.fit(Seen(), numbered(), numbered())
    lit, data = Fails(), numbered()
    before = parts(plain, lit, data)
    with pytest.raises(RuntimeError, match="out of order") if fails else nullcontext():
        run.fit(lit, data, numbered())
    assert parts(run, lit, data) == before


def test_a_log_of_the_modules_own_is_put_back():
    lit, said = Lit(), []
    lit.log_dict = lambda *args, **kw: said.append(args)  # of an instance, as some wrap it
    own = lit.log_dict
    trainer(GDPCallback(0.5, method="annealed")).fit(lit, loader())
    assert vars(lit)["log_dict"] is own and said


@pytest.mark.parametrize("method", ["polar", "annealed"])
def test_no_process_that_loads_data_is_left_behind(method):
    before = multiprocessing.active_children()
    _, pruning, _ = fit(method, data=numbered(num_workers=1), epochs=3)
    assert pruning.report and multiprocessing.active_children() == before


def test_a_small_network_is_trained_on_with_all_data():
    """There are no gates any more that could learn."""
    lit, pruning, _ = fit("annealed")
    lit.trained = []
    trainer(pruning, epochs=1).fit(lit, numbered())
    assert flat(lit.trained) == set(range(64))


def test_the_same_trainer_has_all_data_in_a_fit_without_gdp():
    lit, pruning, run = fit("annealed")
    run.callbacks = [c for c in run.callbacks if c is not pruning]
    run.fit_loop.max_epochs, lit.trained = run.max_epochs + 1, []
    run.fit(lit, numbered())
    assert flat(lit.trained) == set(range(64))


# forms of training_step


class AsDict(Lit):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": 1}


class BatchAlone(Lit):
    def training_step(self, batch):
        return self.loss(self(batch[0]), batch[1])


@pytest.mark.parametrize("make", [AsDict, BatchAlone])
def test_every_form_of_a_loss(make):
    pruning = GDPCallback(0.5, method="annealed")
    trainer(pruning).fit(make(), loader())
    assert 0.49 <= pruning.report.remaining <= 0.5


# what is refused


def refused(lit, expected, data, method="annealed", val=None, **kw):
    keys, classes, init = list(lit.state_dict()), [type(m) for m in lit.modules()], DataLoader.__init__
    run = trainer(GDPCallback(0.5, method=method), num_sanity_val_steps=0, **kw)
    with pytest.raises(gdp.GDPError, match=expected) if isinstance(expected, str) else expected:
        run.fit(lit, data, val)
    assert run.global_step <= 1
    assert DataLoader.__init__ is init  # which Lightning changes while it asks for loaders
    assert list(lit.state_dict()) == keys and [type(m) for m in lit.modules()] == classes
    assert not {"log", "log_dict", "setup", "configure_model"} & vars(lit).keys()


class Nothing(Lit):
    def training_step(self, batch, batch_idx): ...


@features.refused(
    "Methods",
    '`method="annealed"` with manual optimization',
    "Gates that learn on held-out batches ask ….training_step for a loss, but with manual optimization it trains the "
    "weights as well. Use method='polar', or automatic optimization.",
)
def test_manual_optimization_is_refused(refusal):
    class Manual(Lit):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            raise AssertionError("no step may run")

    refused(Manual(), refusal, loader())


def test_a_training_step_without_a_loss_is_refused():
    refused(Nothing(), r"Nothing\.training_step returns(.|\n)*Return the loss, or use method='polar'", loader())


class Own(DataLoader):
    pass


DATA = {
    "stream": lambda: DataLoader(Stream(), None),
    "sampler": lambda: loader(sampler=SubsetRandomSampler(range(32))),
    "replacement": lambda: loader(sampler=RandomSampler(range(64), replacement=True)),
    "batch sampler": lambda: DataLoader(images(), batch_sampler=list(BatchSampler(range(64), 16, False))),
    "dict": lambda: {"a": loader(), "b": loader()},
    "list": lambda: [loader()],
    "class": lambda: Own(images(), 16),
    "batches": lambda: list(loader()),
}


class First(Lit):
    """Takes the first batch of whatever comes."""

    def training_step(self, batch, batch_idx):
        batch = batch["a"] if isinstance(batch, dict) else batch
        batch = batch[0] if isinstance(batch[0], list) else batch
        return super().training_step(batch, batch_idx)


@features.refused(
    "Methods",
    '`method="annealed"` with data that can\'t be split',
    "The method needs data that is held out, and gdp can take it from one torch DataLoader with a data set of known "
    "length and torch's own sampling, but this is …. Hold out "
    "validation data: held_out='val' of the method, with such a loader there, or use method='polar'.",
)
@pytest.mark.parametrize("place", ["train", "train, with an example", "val"])
@pytest.mark.parametrize("form", DATA)
def test_data_that_can_not_be_split_are_refused(form, place, refusal):
    lit, data, source = First(), DATA[form](), "val" if place == "val" else 0.2
    if "example" in place:  # then no batch is drawn for one
        lit.example_input_array = torch.zeros(1, 3, 12, 12)
    train, val = (loader(), data) if place == "val" else (data, None)
    refused(lit, refusal, train, Annealed(held_out=source), val, limit_train_batches=4, limit_val_batches=1)


LITTLE = [(1, {}), (0, {}), (16, {"drop_last": True})]


@pytest.mark.parametrize("n, kw", LITTLE, ids=str)
def test_too_little_data_are_refused(n, kw):
    refused(Lit(), r"at least one batch beside the \d+ of|loader is empty", loader(n, **kw))


@pytest.mark.parametrize("val", [None, 0])
def test_validation_data_that_are_not_there_are_refused(val):
    data = None if val is None else loader(val)
    refused(Lit(), r"(?i)validation data(.|\n)*held_out=", loader(), Annealed(held_out="val"), data)


# two processes


@features.works("Methods", '`method="annealed"` with DDP', "every process holds out its share")
def test_two_processes_hold_out_the_same_and_decide_alike(tmp_path):
    first, second = two_processes(__file__, tmp_path)
    assert first["raw"] == second["raw"] and first["plan"] == second["plan"] and 0.0 in first["raw"]
    assert 0.49 <= first["remaining"] <= 0.5
    held, rest = ([set(rank[name]) for rank in (first, second)] for name in ("learned", "trained"))
    assert not held[0] & held[1] and len(held[0] | held[1]) == 16
    assert rest[0] | rest[1] == set(range(64)) - held[0] - held[1]
    alone = flat(fit(Annealed(held_out=0.25, every=1))[0].learned)
    assert held[0] | held[1] == alone


if __name__ == "__main__":
    torch.set_num_threads(1)
    pl.seed_everything(0)
    lit, pruning = Seen(), GDPCallback(0.5, method=Annealed(held_out=0.25, every=1))
    last = Last(pruning)
    trainer(pruning, last, Noise(pruning), epochs=8, strategy="ddp", devices=2, default_root_dir=sys.argv[1]).fit(
        lit, numbered()
    )
    record = {"raw": last.raw, "plan": pruning.report.plan.to_dict(), "remaining": pruning.report.remaining}
    record |= {"learned": sorted(flat(lit.learned)), "trained": sorted(flat(lit.trained))}
    Path(sys.argv[1], f"rank{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(record))
