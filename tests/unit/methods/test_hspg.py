"""HSPG: lasso on what is to go, and projection to zero where a step leaves the half-space."""

from dataclasses import replace

import pytest
import torch
from helpers.scores import chain, channels, cut, near, penalty_and_gradients, scores

import gdp
from gdp.methods import HSPG
from gdp.methods.hesso import saliency

METHOD = HSPG(strength=0.1, epsilon=0.75)


def at_step(steps=20):
    mask = torch.tensor([True, False, False])
    return channels(chain([[3.0, 4.0], [1.0, 0.0], [0.0, 5.0]], [[1.0] * 3]), keep_mask=mask, steps=steps)


def test_the_penalty_is_the_norm_of_what_was_not_chosen():
    context = at_step()
    penalty, gradients = penalty_and_gradients(METHOD, context)
    assert penalty == 0.6 and near(gradients["0.weight"], [0, 0, 0.1, 0, 0, 0.1])  # 0.1 * (1 + 5)
    assert METHOD.penalty({}, replace(context, keep_mask=None)) is None


def test_a_step_out_of_the_half_space_is_projected_to_zero():
    context = at_step()  # half of the window is over: epsilon 1 - sqrt(0.25)
    state = METHOD.update(METHOD.init_state(3), torch.zeros(3), context)
    weight = context.gates.model[0].weight.data
    weight[:, :, 0, 0] = torch.tensor([[-3.0, 0.0], [0.51, 9.0], [9.0, 1.9]])
    # products with the weights before: 0.51 of 1 and 9.5 of 25
    found = METHOD.factors(state, context)
    assert set(found) == {"writes", "scales", "shifts"} and found["writes"].tolist() == [1, 1, 0]
    weight[1] = 0.49
    assert METHOD.factors(state, context)["writes"].tolist() == [1, 0, 0]


def test_what_is_zero_stays_zero_and_is_closed():
    context = at_step()
    weight = context.gates.model[0].weight.data
    weight[2] = 0
    state = METHOD.update(METHOD.init_state(3), torch.zeros(3), context)
    weight[2] = 1
    assert METHOD.factors(state, context)["writes"].tolist() == [1, 1, 0]
    assert METHOD.step({}, context).tolist() == [1, 1, 1]
    weight[2] = 0
    assert METHOD.step({}, context).tolist() == [1, 1, 0]


def test_channels_are_compared_by_the_saliency_of_hesso_and_what_was_not_chosen_stays_so():
    context = at_step()
    window = context.window._replace(selection_interval=5)
    context = replace(context, keep_mask=None, window=window)
    context.gates.model[0].weight.grad = torch.ones(3, 2, 1, 1)
    state = METHOD.update(METHOD.init_state(3), torch.zeros(3), replace(context, steps=19))  # one is chosen after it
    assert torch.equal(state["saliency"], saliency(context)) and len(set(scores(METHOD, context, state))) == 3
    again = METHOD.update(state, torch.zeros(3), replace(context, steps=16))
    assert again["saliency"] is state["saliency"]
    assert scores(METHOD, at_step(), state)[1:] == [0, 0]


def test_after_a_cut_weights_from_before_it_are_not_compared():
    context = at_step()
    state = METHOD.update(METHOD.init_state(3), torch.zeros(3), context)
    cut(context, "0", [2])
    assert METHOD.factors(state, context) is None and METHOD.factors({"before": torch.zeros(0)}, context) is None
    state = METHOD.update(state, torch.zeros(3), context)
    context.gates.model[0].weight.data[1] = -1
    assert METHOD.factors(state, context)["writes"][:2].tolist() == [1, 0]


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"epsilon": 1.0}, {"gradient_interval": 2}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(gdp.GDPError, match=r"epsilon in \[0, 1\)|gradient_interval to be 1, but got 2"):
        HSPG(**options)
