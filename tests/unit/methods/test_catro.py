"""Variances between classes and within them."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from helpers.scores import chain, channels, cut, places, scores
from helpers.shown import seen

import gdp
from gdp.methods import CATRO
from gdp.methods.catro import trace_ratio_scores, variances

# pooled 0, 2, 4, 6 (means of classes 1 and 5); 0, 4, 0, 4 (2 and 2); 1, 1, 3, 3
POOLED = torch.tensor([[0.0, 0.0, 1.0], [2.0, 4.0, 1.0], [4.0, 0.0, 3.0], [6.0, 4.0, 3.0]])
MAPS = POOLED[..., None, None] + torch.tensor([[1.0, -1.0], [2.0, -2.0]])
CLASSES = [7, 7, 2, 2]
# sums of squares 16, 0, 4 between classes and 4, 16, 0 within, from 4 samples of 2 classes
BETWEEN, WITHIN = torch.tensor([(16 - 2) / 4, -8 / 4, 4 / 4]), torch.tensor([4 / 2, 16 / 2, 0.0])


def chained(**options):
    return channels(chain([[1.0, 1.0]] * 3, [[1.0, 1.0, 1.0]] * 2, [[1.0, 1.0]]), **options)


def test_variances_are_those_of_pooled_activations():
    for maps in (MAPS, POOLED):
        between, within = variances(maps, torch.tensor(CLASSES))
        torch.testing.assert_close(between, BETWEEN)
        torch.testing.assert_close(within, WITHIN)


def test_the_estimates_have_no_bias_however_few_samples_a_class_has():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 10  # two of each
    found = [variances(torch.randn(20, 50, generator=random), labels) for _ in range(20)]
    between, within = (torch.stack(part).mean() for part in zip(*found, strict=True))
    assert abs(between) < 0.02 and abs(within - 1) < 0.03


def test_a_tenth_of_every_batch_goes_into_the_running_mean_of_what_it_shows():
    method, context = CATRO(), chained()
    state = method.observe(method.init_state(5), seen((MAPS, [0, 1, 2]), labels=CLASSES), context)
    torch.testing.assert_close(state["between"], 0.1 * torch.cat([BETWEEN, torch.zeros(2)]))
    shown = seen((torch.rand(3, 3), [0, 1, 2]), (POOLED[:, :2], [3, 4]), labels=CLASSES)  # 3 samples are other ones
    state = method.observe(state, shown, context)
    torch.testing.assert_close(state["within"], 0.1 * torch.cat([WITHIN, WITHIN[:2]]))
    for labels in (None, [0, 1, 2, 3]):  # nothing is known of classes
        after = method.observe(state, seen((MAPS, [0, 1, 2]), labels=labels), context)
        assert all(torch.equal(after[name], state[name]) for name in state)


def test_scores_are_taken_at_the_trace_ratio_of_the_best_set():
    # both of 0 and 2: (4 + 1) / (1 + 0); one: 1 / 0 of channel 2 alone
    between, within = torch.tensor([4.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 0.0])
    assert trace_ratio_scores(between, within, 2).tolist() == [-1.0, -20.0, 1.0]
    assert trace_ratio_scores(between, within, 1).argmax() == 2
    assert trace_ratio_scores(torch.zeros(3), torch.zeros(3), 2).tolist() == [0.0, 0.0, 0.0]


def test_the_set_is_the_best_of_all_of_its_size():
    random = torch.Generator().manual_seed(0)
    for kept in (2, 3, 5):
        between, within = torch.rand(2, 8, generator=random)
        best = max(combinations(range(8), kept), key=lambda s: float(between[list(s)].sum() / within[list(s)].sum()))
        assert sorted(trace_ratio_scores(between, within, kept).topk(kept).indices.tolist()) == list(best)


def test_the_target_says_how_large_the_set_is_also_after_a_cut():
    state = {"between": torch.tensor([10.0, 3.0, 0.0, 1.0, 2.0]), "within": torch.tensor([4.0, 1.0, 4.0, 1.0, 1.0])}
    context, method = chained(target=0.5), CATRO(ridge=0.0)
    # all three: at a ratio of 13 / 9, 10 - 4 r is above 3 - r; of two, the ratio is 13 / 5, and it is below
    assert scores(method, context, state) == places([3, 2, 1], [1, 2])
    assert scores(method, replace(context, target=0.4), state) == places([2, 3, 1], [1, 2])
    cut(context, "0", [2])
    assert scores(method, context, state) == places([1, 2, 0], [1, 2])


def test_a_channel_without_any_variance_goes_first_with_a_ridge():
    state = {"between": torch.tensor([4.0, 2.0, 0.0, 1.0, 1.0]), "within": torch.tensor([1.0, 1.0, 0.0, 1.0, 2.0])}
    # without one: 0, -2 and 0 at the ratio 4 of the first and the third
    assert scores(CATRO(ridge=0.0), chained(), state) == places([2, 1, 3], [2, 1])
    # with 2 / 3 added: 1, -1 and -1.2 at the ratio 6 / (10 / 3) of the first two
    assert scores(CATRO(), chained(), state) == places([3, 2, 1], [2, 1])


def test_classes_are_needed_and_memory_has_its_range():
    assert CATRO().needs_labels and CATRO().observed_batches == 1
    for options in ({"memory": 1.0}, {"ridge": -1.0}):
        with pytest.raises(gdp.GDPError, match=r"memory in \[0, 1\) and ridge of at least 0, but got .*1\.0"):
            CATRO(**options)
