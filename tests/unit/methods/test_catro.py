"""Scatter between classes and within them."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from helpers.scores import chain, channels, cut, places, scores
from helpers.shown import seen

import gdp
from gdp.methods import CATRO
from gdp.methods.catro import scatter, trace_ratio_scores

# pooled 0, 2, 4, 6 (means of classes 1 and 5); 0, 4, 0, 4 (2 and 2); 1, 1, 3, 3
POOLED = torch.tensor([[0.0, 0.0, 1.0], [2.0, 4.0, 1.0], [4.0, 0.0, 3.0], [6.0, 4.0, 3.0]])
MAPS = POOLED[..., None, None] + torch.tensor([[1.0, -1.0], [2.0, -2.0]])
CLASSES = [7, 7, 2, 2]
BETWEEN, WITHIN = torch.tensor([4.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 0.0])


def chained(**options):
    return channels(chain([[1.0, 1.0]] * 3, [[1.0, 1.0, 1.0]] * 2, [[1.0, 1.0]]), **options)


def test_scatter_is_that_of_pooled_activations_per_sample():
    for maps in (MAPS, POOLED):
        between, within = scatter(maps, torch.tensor(CLASSES))
        torch.testing.assert_close(between, BETWEEN)
        torch.testing.assert_close(within, WITHIN)


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
    assert trace_ratio_scores(BETWEEN, WITHIN, 2).tolist() == [-1.0, -20.0, 1.0]
    assert trace_ratio_scores(BETWEEN, WITHIN, 1).argmax() == 2
    assert trace_ratio_scores(torch.zeros(3), torch.zeros(3), 2).tolist() == [0.0, 0.0, 0.0]


def test_the_set_is_the_best_of_all_of_its_size():
    random = torch.Generator().manual_seed(0)
    for kept in (2, 3, 5):
        between, within = torch.rand(2, 8, generator=random)
        best = max(combinations(range(8), kept), key=lambda s: float(between[list(s)].sum() / within[list(s)].sum()))
        found = trace_ratio_scores(between, within, kept)
        assert sorted(found.topk(kept).indices.tolist()) == list(best)
        more = trace_ratio_scores(between + 0.3 * within, within, kept)  # the part that few samples per class add
        torch.testing.assert_close(more, found, rtol=1e-4, atol=1e-5)


def test_the_target_says_how_large_the_set_is_also_after_a_cut():
    state = {"between": torch.tensor([10.0, 3.0, 0.0, 1.0, 2.0]), "within": torch.tensor([4.0, 1.0, 4.0, 1.0, 1.0])}
    context = chained(target=0.5)
    # all three: at a ratio of 13 / 9, 10 - 4 r is above 3 - r; of two, the ratio is 13 / 5, and it is below
    assert scores(CATRO(), context, state) == places([3, 2, 1], [1, 2])
    assert scores(CATRO(), replace(context, target=0.4), state) == places([2, 3, 1], [1, 2])
    cut(context, "0", [2])
    assert scores(CATRO(), context, state) == places([1, 2, 0], [1, 2])


def test_classes_are_needed_and_memory_has_its_range():
    assert CATRO().needs_labels and CATRO().observed_batches == 1
    with pytest.raises(gdp.GDPError, match=r"memory in \[0, 1\), but got 1\.0"):
        CATRO(memory=1.0)
