"""Which moments a history keeps, and how it is read back."""

from itertools import pairwise

import pytest
import torch
from helpers.comparison import assert_same_history

import gdp
from gdp.report import BINS, LIMIT, History


def recorded(history, first, last):
    for step in range(first, last):
        values = torch.tensor([0.0, 0.5, step / 2000, 1.0])
        history.record(step, 1 - step / 4000, 1 - step / 3000, step / 7, values, torch.tensor([3, step]))
    return history


@pytest.mark.parametrize("moments", [1, 400, 401, 900, 1999])
def test_what_is_kept_is_spread_evenly(moments):
    history = recorded(History(), 0, moments)
    assert min(moments, LIMIT // 2) <= len(history.steps) <= LIMIT and history.steps[0] == 0
    gaps = [b - a for a, b in pairwise(history.steps)][:-1]
    assert set(gaps) <= {history.interval} and history.steps[-1] > moments - 1 - history.interval
    assert all(sum(values) == 4 for values in history.values)
    for line in (history.flops, history.allowed, history.lagrange_multiplier, history.values, history.open_counts):
        assert len(line) == len(history.steps)
    assert [opened[1] for opened in history.open_counts] == history.steps
    assert history.lagrange_multiplier == [step / 7 for step in history.steps]


@pytest.mark.parametrize("moments", [0, 1, 30, 700])
def test_a_history_is_read_back_and_goes_on(moments):
    one = recorded(History(), 0, moments)
    other = History.from_dict(one.to_dict())
    assert_same_history(one, other)
    assert_same_history(recorded(one, moments, moments + 500), recorded(other, moments, moments + 500))


GARBAGE = [None, 3, "history", [], {}, {"steps": 1}]


GARBAGE += [
    (name, value) for name in ("steps", "flops", "values", "open_counts") for value in (None, 3, torch.tensor(3))
]


GARBAGE += [("interval", None), ("interval", "x"), ("seen", None), ("flops", torch.ones(2, dtype=torch.float64))]


GARBAGE += [("values", torch.zeros(2, BINS)), ("open_counts", torch.zeros(9, 2))]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: str(garbage)[:24])
def test_what_is_no_history_is_refused(garbage):
    if isinstance(garbage, tuple):
        garbage = recorded(History(), 0, 5).to_dict() | dict([garbage])
    with pytest.raises(gdp.GDPError, match="Expected the history of a pruning"):
        History.from_dict(garbage)
