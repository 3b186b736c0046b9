"""The history of the gates, its picture, and what loggers show of it."""

import json
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from helpers.comparison import assert_history_is_of, assert_same_history
from helpers.features import works
from helpers.training import Lit, loader, small_net, trainer
from PIL import Image
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gdp
from gdp import GDPCallback
from gdp.report import BINS, report_of

KINDS = pytest.mark.parametrize("method", ["polar", "annealed"])


def fit(*callbacks, method="polar", target=0.5, resume=None, **kw):
    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(target, method=method)
    run = trainer(pruning, *callbacks, **({"epochs": 15} | kw))
    run.fit(lit, loader(), ckpt_path=resume)
    return lit, pruning.report, run


@KINDS
def test_a_run_has_a_history(method):
    _, report, _ = fit(method=method)
    history, window = report.history, gdp.Polar().window(60)
    assert history.steps == sorted({*range(window.start, window.end, 5), window.last_selection, window.end})
    assert all(len(values) == BINS and sum(values) == 40 for values in history.values)
    assert sum(history.values[0][BINS // 2 :]) == 40 and history.flops[0] == 1.0
    assert all(a >= b for line in (history.flops, history.allowed) for a, b in pairwise(line))
    assert history.allowed[-1] == 0.5 and history.lagrange_multiplier[-1] > 0
    assert_history_is_of(history, report)


def test_a_run_that_stops_inside_the_window_ends_its_history_as_the_report_does():
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 20

    _, report, _ = fit(Stop(), min_epochs=1)
    assert report.history.steps == sorted(report.history.steps) and report.history.steps[-1] == 20
    assert_history_is_of(report.history, report)


GARBAGE = [None, 3, "history", [], {}, {"steps": 1}]
GARBAGE += [
    (name, value) for name in ("steps", "flops", "values", "open_counts") for value in (None, 3, torch.tensor(3))
]
GARBAGE += [("interval", None), ("interval", "x"), ("seen", None), ("flops", torch.ones(2, dtype=torch.float64))]
GARBAGE += [("values", torch.zeros(2, BINS)), ("open_counts", torch.zeros(9, 2))]


def test_a_report_is_made_of_plain_strings_and_numbers():
    _, report, _ = fit()
    data = json.loads(json.dumps(report.to_dict()))
    assert_same_history(gdp.Report.from_dict(data, report.plan).history, report.history)


@pytest.mark.slow
@KINDS
def test_a_resumed_run_has_the_history_of_the_uninterrupted_one(tmp_path, method):
    save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    _, report, _ = fit(save, method=method, enable_checkpointing=True)
    for epoch in (0, 4, 6, 13):
        _, again, _ = fit(method=method, resume=tmp_path / f"epoch={epoch}.ckpt")
        assert_same_history(again.history, report.history)


# the picture


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gdp.png", "gdp.svg", "gdp.pdf"])
@KINDS
def test_the_picture(tmp_path, method, name):
    _, report, _ = fit(method=method)
    path = tmp_path / name
    report.plot(str(path) if method == "polar" else path)
    content = path.read_bytes()
    if name == "gdp.png":
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(2**24)
            assert picture.width > 800 and picture.height > 600
        assert len(colours) > 50 and max(count for count, _ in colours) < 0.95 * sum(count for count, _ in colours)
    elif name == "gdp.svg":
        text = content.decode()
        assert text.startswith("<?xml") and text.count("<path") > 50
        assert all(f"<!-- {group}  {kept} / {total} -->" in text for group, kept, total in report.groups)
    else:
        assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")


def test_one_moment_is_enough_for_a_picture(tmp_path):
    _, report, _ = fit(fast_dev_run=1)
    report.plot(tmp_path / "short.png")
    with Image.open(tmp_path / "short.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 50


@pytest.mark.slow
def test_a_loaded_network_has_a_picture_too(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="small")
    lit, report, run = fit(save, enable_checkpointing=True)
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    run.save_checkpoint(tmp_path / "after.ckpt")
    report.plot(tmp_path / "first.png")
    loaded = (
        gdp.load_pruned(small_net(), tmp_path / "small.pt"),
        gdp.load_checkpoint(Lit(), tmp_path / "after.ckpt").net,
    )
    for net in loaded:
        report_of(net).plot(tmp_path / "again.png")
        assert (tmp_path / "again.png").read_bytes() == (tmp_path / "first.png").read_bytes()


@pytest.mark.parametrize("name", ["missing/gdp.png", "gdp.nope", "folder.png", "file.txt/gdp.png"])
def test_a_picture_that_can_not_be_written_is_refused(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").write_text("kept")
    _, report, _ = fit(fast_dev_run=1)
    with pytest.raises(gdp.GDPError, match=r"The picture could not be written to .*" + name.split("/")[-1]):
        report.plot(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.png", "file.txt"}


# loggers


@KINDS
@pytest.mark.parametrize("often", [1, 12])
@works("Methods", "TensorBoard", "a histogram of the gates, what is left of every group, FLOPs, lambda")
def test_tensorboard_shows_gates_and_groups(tmp_path, method, often):
    _, report, run = fit(method=method, logger=TensorBoardLogger(tmp_path), log_every_n_steps=often)
    events = EventAccumulator(run.logger.log_dir, size_guidance={"histograms": 0, "scalars": 0}).Reload()
    assert events.Tags()["histograms"] == ["gdp/gates"]
    shown = events.Histograms("gdp/gates")
    assert all(event.histogram_value.num == 40 for event in shown)
    steps = [event.step for event in shown]
    looks = report.history.steps
    assert steps == (looks if often == 1 else [step for step in looks if step in steps]) and steps[-1] == looks[-1]
    assert all(b - a >= often for a, b in pairwise(steps[:-1])) and len(steps) >= (len(looks) if often == 1 else 3)
    for name, kept, total in report.groups:
        found = events.Scalars(f"gdp/kept/{name}")
        assert [event.step for event in found] == steps
        assert (often > 1 or found[0].value == 1.0) and found[-1].value == pytest.approx(kept / total)
    last = shown[-1].histogram_value
    high = [count for limit, count in zip(last.bucket_limit, last.bucket, strict=True) if limit > 0.5]
    assert sum(high) == sum(kept for _, kept, _ in report.groups)


class Own(Logger):
    """The least that Lightning asks of a logger."""

    name, version = "own", 0

    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append(metrics)

    def log_hyperparams(self, params, *args, **kw): ...


@pytest.mark.parametrize("kind", ["csv", "own", "none", "several"])
def test_other_loggers_get_numbers(tmp_path, kind):
    own = Own()
    loggers = {"csv": CSVLogger(tmp_path), "own": own, "none": False, "several": [CSVLogger(tmp_path), own]}
    _, report, run = fit(logger=loggers[kind], log_every_n_steps=1)
    assert run.callback_metrics["gdp/flops"] == pytest.approx(report.remaining)
    if kind in ("csv", "several"):
        assert "gdp/flops" in next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0]
    if kind in ("own", "several"):
        assert sum("gdp/flops" in line for line in own.lines) == 60
