"""Processes that are killed while they train: what is resumed from the last checkpoint ends as if nothing had been."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.features import works
from helpers.paths import ENVIRONMENT, TESTS

pytestmark = pytest.mark.slow


COMMAND = [sys.executable, str(TESTS / "scripts" / "crash_script.py")]
KILLED = -9
AREA = "Checkpoints and resume"

Make = Callable[..., int]


def alone(**settings) -> int:
    """Make a run of crash_script.py; its exit code."""
    command = [*COMMAND, json.dumps(settings)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=120).returncode


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """The same, without waiting for imports every time."""
    errors = tmp_path_factory.mktemp("server") / "stderr.txt"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with open(errors, "w") as file, subprocess.Popen(COMMAND, env=ENVIRONMENT, stderr=file, **pipes) as server:

        def ask(**settings) -> int:
            server.stdin.write(json.dumps(settings) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer.strip() in ("0", str(KILLED)), errors.read_text()[-3000:]
            return int(answer)

        yield ask
        server.stdin.close()


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """What the uninterrupted run leaves, by `shrink`."""
    known = {}

    def of(way: str | None) -> dict:
        if way not in known:
            folder = tmp_path_factory.mktemp("whole")
            assert make(folder=str(folder), way=way, record=str(folder / "end.json")) == 0
            known[way] = json.loads((folder / "end.json").read_text())
        return known[way]

    return of


def crash_and_resume(make: Make, folder: Path, kills: list[tuple[str, int]], **settings) -> dict:
    """Kill a run at these moments, one after the other; what is left when it has been resumed to the end."""
    settings |= {"folder": str(folder), "record": str(folder / "end.json")}
    for i, kill in enumerate(kills):
        assert make(**settings, kill=kill, resume=i > 0) == KILLED
        assert not (folder / "end.json").exists()
    assert make(**settings, resume=True) == 0
    return json.loads((folder / "end.json").read_text())


def assert_same(found: dict, expected: dict, start: int) -> None:
    assert found["start"] == start
    for part in ("weights", "optimizers", "schedulers", "gates", "plan", "report"):
        assert found[part] == expected[part], part


def after(*steps: int) -> list[tuple[str, int]]:
    return [("after the gates", step) for step in steps]


def before(step: int) -> list[tuple[str, int]]:
    return [("before the gates", step)]


# the moments of death, and the checkpoint that is there then; an epoch has 5 steps, the window goes from 12 to 36
BETWEEN = {
    "before the first checkpoint": (after(3), 0),
    "before the window": (after(8), 5),
    "between the optimizer's step and that of the gates": (before(23), 20),
    "between the gates' step and a checkpoint": (after(23), 20),
    "between the end of an epoch and its checkpoint": (after(25), 20),
    "after the window": (after(44), 40),
    "again and again": (after(8, 23, 34, 44), 40),
}


@works(AREA, "a process that is killed (SIGKILL) and resumed from the last epoch's end")
@pytest.mark.parametrize(
    "way, moment",
    [
        *(("epoch", moment) for moment in BETWEEN),
        ("end", "between the gates' step and a checkpoint"),
        ("end", "again and again"),
    ],
)
def test_killed_between_two_checkpoints(make, whole, tmp_path, way, moment):
    kills, start = BETWEEN[moment]
    assert_same(crash_and_resume(make, tmp_path, kills, way=way), whole(way), start)


@works(AREA, "a process that is killed and resumed by another, each with its own imports")
def test_killed_and_started_again_by_hand(whole, tmp_path):
    assert_same(crash_and_resume(alone, tmp_path, after(33), way="epoch"), whole("epoch"), 30)


@works(AREA, "a process that is killed while it writes a checkpoint", "the one before is resumed from")
@pytest.mark.parametrize("way, step, start", [("epoch", 60, 55), ("end", 30, 25)])
def test_killed_while_a_checkpoint_is_written(make, whole, tmp_path, way, step, start):
    found = crash_and_resume(make, tmp_path, [("writing", step)], way=way)
    assert_same(found, whole(way), start)


@works(AREA, "a process that is killed when training is over, before the channels are removed or right after")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_killed_around_the_removal(make, whole, tmp_path, way):
    found = crash_and_resume(make, tmp_path, [*before(0), *after(0)], way=way)
    assert_same(found, whole(way), 60)


INSIDE = works(
    AREA,
    "a process that is killed and resumed inside an epoch",
    "the loader has to go on where it was (`state_dict`), since Lightning begins its epoch anew",
)


@pytest.mark.parametrize("way", [None, pytest.param("epoch", marks=INSIDE), pytest.param("end", marks=INSIDE)])
def test_checkpoints_inside_an_epoch(make, whole, tmp_path, way):
    """Without gdp as well: Lightning itself resumes exactly here. It does not once it was resumed at an epoch's last
    step, by a checkpoint of that step, and then again: no kill between steps 30 and 32 here."""
    found = crash_and_resume(make, tmp_path, after(7, 13, 23, 44), way=way, every=3)
    assert_same(found, whole(way), 42)


@works(AREA, "what is logged after a resume is what would have been logged")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_a_resumed_run_logs_what_the_uninterrupted_one_does(make, whole, tmp_path, way):
    found = crash_and_resume(make, tmp_path, after(24), way=way)
    logged = {step: values for step, values in whole(way)["logged"].items() if int(step) > 20}
    assert {step: values for step, values in found["logged"].items() if int(step) > 20} == logged
