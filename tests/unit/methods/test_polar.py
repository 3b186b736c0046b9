import torch
from helpers.contexts import at

from gdp.gates import polar_gate
from gdp.methods import Polar, anneal, polarize, sensitivity


def test_sensitivity_forgets():
    past = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(sensitivity(past, torch.tensor([2.0, 0.0]), 0.9), torch.tensor([1.3, 1.8]))


def test_gates_polarize_to_exact_zero_and_one():
    raw, keep = torch.tensor([1.0, 1.0, 0.05, 0.0]), torch.tensor([True, False, True, False])
    trail = []
    for step in range(50):
        eps = anneal(0.1, 1e-4, step / 50)
        raw = polarize(raw, keep, eps, 1e-3 ** (1 / 50), 0.01)
        trail.append(polar_gate(raw, eps))
    assert torch.stack(trail)[:, 1].diff().max() <= 0
    assert raw.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_closing_gate_may_come_back_until_it_is_zero():
    closing, stay = torch.tensor([False]), torch.tensor([True])
    raw = torch.ones(1)
    for _ in range(10):
        raw = polarize(raw, closing, 1e-2, 0.8, 0.01)
    assert 0 < raw < 0.2
    for _ in range(10):
        raw = polarize(raw, stay, 1e-2, 0.8, 0.01)
    assert raw == 1.0
    assert polarize(torch.zeros(1), stay, 1e-2, 0.8, 0.01) == 0.0


def test_finalized_gates_are_zero_or_above_one_half():
    raw = Polar().finalize({}, at([1.0, 0.001, 0.7, 0.0], [True, True, False, False], 1e-4))
    value = polar_gate(raw, 1e-4)
    assert value[[2, 3]].tolist() == [0.0, 0.0] and value[[0, 1]].min() > 0.5


def test_the_running_mean_remembers_19_of_20_parts_unless_told_otherwise():
    method = Polar()
    state = method.init_state(2)
    for gradient in ([2.0, -4.0], [0.0, 2.0], [10.0, 0.0]):
        state = method.update(state, torch.tensor(gradient), None)
    # 0.95 * (0.95 * 0.05 * 4 + 0) + 0.05 * 100, and 0.95 * (0.95 * 0.05 * 16 + 0.05 * 4) + 0
    torch.testing.assert_close(state["importance"], torch.tensor([5.1805, 0.912]))
