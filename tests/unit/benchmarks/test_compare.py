"""The comparison of methods: what is there is not run again, what fails is a row, and the arithmetic of its tables."""

import argparse
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.training import images, small_net

import gdp
from benchmarks.accuracy.data import Images
from benchmarks.accuracy.jobs import rows_of, write_rows
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.training import SIZES, fit
from benchmarks.common.markdown import between
from benchmarks.common.memory import forget_peak, process_peak
from benchmarks.compare.__main__ import run_missing
from benchmarks.compare.document import comparison, step_costs, write
from benchmarks.compare.processes import each_alone
from benchmarks.compare.ranks import families, ordered, overall, ranks, spearman, within_groups
from benchmarks.compare.similarity import asked, moment
from benchmarks.compare.similarity_document import section
from benchmarks.compare.summary import ranking, summarized
from benchmarks.compare.turns import Ratio, ratio, seconds_in_turns

MEASURED = {"remains": 0.3, "val": 60.0, "test": 61.0, "training_flops": 400.0, "peak_mib": 900.0, "before_mib": 700.0}
RAN = "ran"  # file of the ways that were run


def options(folder: Path, **changed) -> argparse.Namespace:
    torch.save({}, folder / "decoded.pt")
    known = {"data": folder, "cache": folder, "out": folder / "methods.csv", "size": "smoke", "epochs": None}
    known |= {"models": ["resnet20"], "ways": ["dense", "polar", "annealed"], "targets": [0.3], "seeds": (0, 1)}
    known |= {"budget": "epochs", "start": "scratch", "workers": 1, "again": False}
    return argparse.Namespace(**known | changed)


def run(folder: Path, fails: str | None = None, **changed) -> list[str]:
    """Run what is missing, and return the ways that were run."""

    def work(task):
        job, _ = task
        with (folder / RAN).open("a") as file:
            file.write(f"{job.way}\n")
        if job.way == fails:
            raise gdp.GDPError("Expected a network with convs, but got none.\nA second line.")
        if fails == f"kill {job.way}":
            os._exit(3)
        return {**MEASURED, "seconds": 5.0, "machine": "a CPU"}

    (folder / RAN).unlink(missing_ok=True)
    run_missing(options(folder, **changed), work, "fork")
    return (folder / RAN).read_text().split() if (folder / RAN).exists() else []


def table_row(way: str, seed: int, test: float | str, **changed) -> dict[str, str]:
    row = {"size": "smoke", "model": "resnet20", "way": way, "target": "0.3", "seed": seed, "epochs": "6.0"}
    row |= MEASURED | {"steps": 800, "test": test, "machine": "a CPU", "step_ratio": "", "failed": ""}
    return {name: str(value) for name, value in (row | changed).items()}


# runs


def test_what_has_a_row_is_not_run_again(tmp_path):
    assert run(tmp_path, ways=["polar"]) == ["polar"]
    first = rows_of(tmp_path / "methods.csv")
    assert run(tmp_path) == ["dense", "annealed"]
    rows = rows_of(tmp_path / "methods.csv")
    assert [row["way"] for row in rows] == ["polar", "dense", "annealed"] and rows[0] == first[0]
    assert rows[0]["test"] == "61" and rows[0]["step_ratio"] == "" and rows[0]["failed"] == ""
    assert run(tmp_path) == []
    assert run(tmp_path, seeds=(0, 2), ways=["dense"]) == ["dense"]


def test_a_method_that_fails_is_a_row_that_says_why_and_the_others_go_on(tmp_path):
    assert run(tmp_path, fails="polar") == ["dense", "polar", "annealed"]
    rows = {row["way"]: row for row in rows_of(tmp_path / "methods.csv")}
    assert rows["polar"]["failed"] == "GDPError: Expected a network with convs, but got none"
    assert rows["polar"]["test"] == "" and rows["annealed"]["test"] == "61"
    assert "A second line." in (tmp_path / "log.txt").read_text()
    assert run(tmp_path) == []
    assert run(tmp_path, again=True) == ["polar"]
    assert not any(row["failed"] for row in rows_of(tmp_path / "methods.csv"))


def test_a_process_that_dies_is_a_row_too(tmp_path):
    run(tmp_path, fails="kill dense", ways=["dense", "polar"])
    dense, polar = rows_of(tmp_path / "methods.csv")
    assert dense["failed"] == "the process ended by itself, with exit code 3" and polar["test"] == "61"


def test_each_task_has_a_process_of_its_own(tmp_path):
    found = dict(each_alone(lambda task: {"id": os.getpid()}, [1, 2, 3], 2, tmp_path / "log", start="fork"))
    assert sorted(found) == [1, 2, 3] and len({one["id"] for one in found.values()} | {os.getpid()}) == 4


def test_whoever_dies_while_rows_are_written_leaves_those_of_before(tmp_path):
    class Dying:
        def __str__(self):
            raise KeyboardInterrupt

    path = tmp_path / "rows.csv"
    write_rows(path, [{"a": 1, "b": "x, y"}])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_rows(path, [{"a": 1, "b": "x, y"}, {"a": Dying(), "b": 3}])
    assert path.read_bytes() == before and rows_of(path) == [{"a": "1", "b": "x, y"}]


# tables


def test_means_spreads_and_costs_are_those_of_the_runs():
    rows = [table_row("polar", 0, 60.0, step_ratio=1.1, training_flops=400), table_row("polar", 1, 63.0)]
    found = summarized("polar", [*rows, table_row("polar", 2, "", failed="GDPError: no")])
    assert found.mean == 61.5 and found.spread == pytest.approx(2.12132, abs=1e-5)  # of 60 and 63: 3 / sqrt(2)
    assert found.accuracy == "61.5 ± 2.1 (2 of 3)"
    assert found.ahead is None and summarized("l1", rows, [table_row("polar", 1, 64.0)]).ahead == -1
    assert (found.training, found.remains, found.peak_mib, found.risen_mib, found.step) == (0.5, 0.3, 900, 200, 1.1)


def test_methods_are_ranked_with_dense_training_beside_them_and_failures_last():
    rows = [table_row("dense", 0, 66.0, target="1.0"), table_row("l1", 0, 60.0), table_row("polar", 0, 61.0)]
    rows += [table_row("hrank", 0, "", failed="GDPError: no convs"), table_row("l1", 0, 65.0, target="0.5")]
    assert [found.way for found in ranking(rows, "0.3")] == ["dense", "polar", "l1", "hrank"]
    text = comparison(rows)
    assert "| `hrank` | failed: GDPError: no convs |  |  |  |  |  |" in text
    assert "| `l1` | 60.0 (1) | -1.0 | 30.0%" in text
    assert "| `polar` | 61.0 (1) | +0.0 | 30.0% | 0.50 |  | 900 (+200) |" in text
    assert "- `hrank`, target 0.3, seed 0: GDPError: no convs" in text
    assert '    make compare DATA=data/cifar10 ARGS="--model resnet20 --target 0.5 0.3 --seeds 1"' in text


def test_the_cost_of_a_step_is_also_told_against_polar():
    step = {"step_low": 1.0, "step_high": 1.3}
    rows = [table_row("polar", 0, 61.0, step_ratio=1.1, **step), table_row("l1", 0, 60.0, step_ratio=1.21, **step)]
    assert "| `l1` | 1.210 (1.00 to 1.30) | 1.10 |" in step_costs(rows).splitlines()


def test_the_page_is_made_of_what_there_is(tmp_path):
    page, out = tmp_path / "methods.md", tmp_path / "methods.csv"
    assert write(out) == "" and not page.exists()
    row = {"model": "resnet20", "size": "smoke", "epochs": "6.0", "steps": "200", "groups": "2 2", "failed": ""}
    rows = [row | {"method": name, "ranks": text} for name, text in (("a", "1 2 3 4"), ("b", "1 2 4 3"))]
    write_rows(tmp_path / "methods_ranks.csv", rows)
    write(out)
    assert "<!-- similarity -->" in page.read_text() and "<!-- comparison -->" not in page.read_text()


def test_the_page_keeps_what_somebody_has_written_around_its_parts(tmp_path):
    page, out = tmp_path / "methods.md", tmp_path / "methods.csv"
    write_rows(out, [table_row("dense", 0, 66.0, target="1.0"), table_row("polar", 0, 61.0)])
    write(out)
    assert (tmp_path / "methods.svg").exists() and "| `polar` | 61.0 (1)" in page.read_text()
    page.write_text(page.read_text().replace("compared\n", "compared\n\nMine.\n") + "\nThe end.\n")
    before = page.read_text()
    write(out)
    assert page.read_text() == before
    assert between("a", "x", "new\n") == "a\n\n<!-- x -->\n\nnew\n\n<!-- end of x -->\n"


# seconds and bytes


def test_trainings_take_turns_step_by_step():
    order = []

    def training(name):
        def train(timed):
            for step in range(10):
                timed.on_train_batch_start(None, SimpleNamespace(device=torch.device("cpu")), None, step)
                order.append(name)

        return train

    seconds = seconds_in_turns([training("a"), training("b")], steps=4)
    assert [len(taken) for taken in seconds] == [4, 4] and "".join(order) == "abababab"


def test_an_error_in_one_training_ends_the_others_and_is_raised():
    def endless(timed):
        while True:
            timed.on_train_batch_start(None, SimpleNamespace(device=torch.device("cpu")), None, 0)

    def failing(timed):
        raise gdp.GDPError("no")

    with pytest.raises(gdp.GDPError, match="no"):
        seconds_in_turns([endless, failing], steps=4)


def test_ratios_are_those_of_sums_over_blocks_without_the_first():
    mine, dense = [9, 9, 1, 5, 3, 3, 5, 7], [1, 1, 2, 2, 2, 2, 2, 2]
    assert ratio(mine, dense, block=2) == Ratio(1.5, 1.5, 2.25)  # of 1.5, 1.5 and 3


def test_the_peak_of_memory_counts_from_where_it_was_forgotten():
    before = forget_peak()
    torch.ones(2**26, dtype=torch.uint8)
    assert process_peak() - before > 2**25
    assert forget_peak() and forget_peak() < before + 2**25


# similarity


def test_spearman_is_that_of_hand_computed_ranks_with_ties():
    assert ranks([0.1, 7, 7, 9]).tolist() == [1, 2.5, 2.5, 4]
    # deviations of ranks -1.5, 0, 0, 1.5 and -1.5, 0.5, -0.5, 1.5: 4.5 / sqrt(4.5 * 5)
    assert spearman([0.1, 7, 7, 9], [0, 2, 1, 3]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [4, 4, 4]) != spearman([1, 2, 3], [4, 4, 4])  # nan


def test_within_groups_is_the_median_over_groups_that_tell_channels_apart():
    a, b = ranks([1, 2, 3, 10, 20, 30, 5, 5]), ranks([1, 2, 3, 6, 5, 4, 1, 2])
    found = within_groups([a, b], [3, 3, 2])  # 1, -1, and none where a says the same of both
    assert found[0, 1] == pytest.approx(0) and found[0, 0] == pytest.approx(1)
    assert overall([a, b])[0, 1] == pytest.approx(spearman(a, b))


def test_families_are_joined_by_chains_of_strong_correlations_and_stand_together():
    matrix = torch.eye(4, dtype=torch.float64).numpy()
    matrix[0, 2] = matrix[2, 0] = matrix[2, 3] = matrix[3, 2] = 0.95
    assert families(matrix, 0.9) == [[0, 2, 3], [1]] and ordered(matrix) == [2, 0, 3, 1]


def test_the_section_names_failures_and_methods_that_say_nothing(tmp_path):
    rows = [{"method": name, "groups": "2 2", "ranks": text, "failed": ""} for name, text in (
        ("a", "1 2 3 4"), ("b", "1 2 4 3"), ("c", "4 3 2 1"), ("same", "2.5 2.5 2.5 2.5"))]  # fmt: skip
    rows.append({"method": "hrank", "groups": "", "ranks": "", "failed": "GDPError: no convs"})
    text = section(rows, ("resnet20", "smoke", "6.0", "200"), tmp_path / "ranks.svg")
    assert "- `hrank` failed: GDPError: no convs" in text and "- `same` says the same of all channels." in text
    assert "| `a` | `b` | 0.80 | `b` | 0.00 |" in text and (tmp_path / "ranks.svg").exists()


@pytest.fixture
def tiny(monkeypatch):
    """A network and images that a step takes milliseconds for, under the names of the benchmark."""
    monkeypatch.setattr("benchmarks.accuracy.data.BATCH", 16)
    monkeypatch.setitem(NETWORKS, "tiny", lambda width: small_net())
    x, y = images(64).tensors
    return {split: Images(x, y) for split in ("train", "val", "test")}


def test_a_method_ranks_all_channels_while_the_weights_hold_still(tiny):
    net = small_net()
    before = {key: value.clone() for key, value in net.named_parameters()}
    found = asked("polar", net, tiny, SIZES["smoke"], steps=4)
    assert found["groups"] == "8 16 16" and len(set(found["ranks"].split())) > 20
    for key, value in net.named_parameters():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_methods_whose_gates_learn_are_asked_under_a_budget_before_gates_settle():
    assert moment(gdp.Polar(start=0.5, end=1.0), 200) == (1.0, 200)
    assert moment(gdp.Annealed(start=0.5, end=1.0), 200) == (0.5, 175)  # the last quarter is for closing


def test_real_trainings_are_timed_in_turns(tiny):
    pruning = gdp.GDPCallback(0.5, method=gdp.Polar(start=0.0, end=1.0), shrink="end")

    def train(net, callbacks):
        return lambda timed: fit(net, tiny, SIZES["smoke"], 8, 0.1, [timed, *callbacks])

    mine, dense = seconds_in_turns([train(small_net(), [pruning]), train(small_net(), [])], steps=4)
    assert len(mine) == len(dense) == 4 and min(*mine, *dense) > 0
