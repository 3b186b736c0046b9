"""HESSO: five saliences, and gates that fall to zero in equal steps, period after period."""

from dataclasses import replace

import torch
from helpers.scores import chain, channels, cut, near, scores

from gdp.methods import HESSO


def with_gradients(filters, gradients):
    context = channels(chain(filters, [[1.0] * len(filters)]))
    weight = context.gates.model[0].weight
    weight.grad = torch.tensor(gradients).view(weight.shape)
    return context


def test_the_saliency_is_the_one_by_hand():
    context, method = with_gradients([[3.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -2.0]]), HESSO()
    # norms 5, 1; over sqrt(2); 1 + cosines with -g: 0.4, 2; products with g: 3, 2; half of their squares: 4.5, 2
    # in units of their length: (0.980581, 0.196116) twice, (0.196116, 0.980581), (0.832050, 0.554700) and
    # (0.913812, 0.406138)
    state = method.update(method.init_state(2), torch.zeros(2), context)
    assert near(state["saliency"], [0.780628, 0.466730])
    assert scores(method, context, state) == [0.7806, 0.4667]
    cut(context, "0", [1])
    context.gates.model[0].weight.grad = torch.ones(1, 2, 1, 1)
    found = method.update(state, torch.zeros(2), context)["saliency"]
    assert near(found, [1.0, 0.0])  # the only one: all five terms are 1


def test_gradients_that_are_not_finite_or_missing_are_borne():
    context, method = with_gradients([[3.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, float("inf")]]), HESSO()
    state = {"saliency": torch.tensor([1.0, 2.0])}
    assert method.update(state, torch.zeros(2), context)["saliency"].tolist() == [1.0, 2.0]
    context.gates.model[0].weight.grad = None
    assert method.update(state, torch.zeros(2), context)["saliency"].isfinite().all()


def test_channels_fall_to_exactly_zero_in_the_steps_of_one_period():
    mask = torch.tensor([True, False, True])
    context, method = channels(chain([[1.0, 0.0]] * 3, [[1.0] * 3]), keep_mask=mask), HESSO()
    found = []
    for step in range(10, 21):  # periods of 10 steps begin at 10 and at 20
        keep = mask if step < 13 else torch.tensor([True, False, False])  # the third has to wait until 20
        context.gates.set(method.step({}, replace(context, steps=step, keep_mask=keep)))
        found.append([round(x, 6) for x in context.gate_param.tolist()])
    assert [x[1] for x in found] == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0]
    assert context.gate_param[1] == 0
    assert [x[2] for x in found] == [1.0] * 10 + [0.9] and all(x[0] == 1 for x in found)


def test_what_has_begun_to_close_has_no_importance():
    context = channels(chain([[1.0, 0.0]] * 3, [[1.0] * 3]))
    context.gates.set(torch.tensor([1.0, 0.7, 1.0]))
    assert scores(HESSO(), context, {"saliency": torch.tensor([0.1, 0.9, 0.2])}) == [0.1, 0.0, 0.2]
