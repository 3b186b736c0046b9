"""Taylor importance, and what makes it another method than polar."""

import pytest
import torch
from helpers.scores import chain, channels, cut, scores

import gdp
from gdp.methods import Polar, Taylor


def test_the_running_mean_remembers_nine_of_ten_parts_of_every_batch():
    method = Taylor()
    state = method.init_state(2)
    for gradient in ([2.0, -4.0], [0.0, 2.0], [10.0, 0.0]):
        state = method.update(state, torch.tensor(gradient), None)
    # 0.9 * (0.9 * 0.1 * 4 + 0) + 0.1 * 100, and 0.9 * (0.9 * 0.1 * 16 + 0.1 * 4) + 0
    torch.testing.assert_close(state["importance"], torch.tensor([10.324, 1.656]))
    assert method.gradient_interval == 1


def test_scores_are_compared_whatever_a_channel_costs():
    context = channels(chain([[1.0, 1.0]] * 3, [[1.0] * 3] * 4, [[1.0] * 4]))
    assert len(set(context.marginal.tolist())) == 2
    state = {"importance": torch.tensor([5.0, 1.0, 3.0, 0.5, 2.0, 4.0, 6.0])}
    assert scores(Taylor(), context, state) == state["importance"].tolist()
    assert scores(Polar(), context, state) != state["importance"].tolist()
    cut(context, "0", [1])
    assert scores(Taylor(), context, state) == state["importance"].tolist()


def test_memory_out_of_range_is_refused():
    with pytest.raises(gdp.GDPError, match=r"memory in \[0, 1\), but got 1\.0"):
        Taylor(memory=1.0)
