import json

import pytest
import torch
from helpers.looking_methods import AddsLoss
from helpers.training import two_processes
from scripts.ddp_script import fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return two_processes("ddp_script.py", tmp_path_factory.mktemp("ranks"))


def test_two_processes_decide_alike_and_end_with_the_same_network(ranks):
    first, second = ranks
    assert first["plan"] == second["plan"] and first["weights"] == second["weights"]
    assert first["report"]["groups"] == second["report"]["groups"]
    assert 0.49 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.5


def test_what_is_remembered_of_shown_batches_is_the_mean_of_both_processes(ranks):
    first, second = (rank["shown"] for rank in ranks)
    assert all(first[name] == second[name] for name in ("remembered", "plan", "weights"))
    mean = (torch.tensor(first["own"]) + torch.tensor(second["own"])) / 2
    torch.testing.assert_close(torch.tensor(first["remembered"]), mean)
    assert first["own"] != second["own"]


def test_two_processes_that_add_a_loss_end_where_one_does(ranks, tmp_path):
    first, second = (rank["adds a loss"] for rank in ranks)
    assert first["plan"] == second["plan"] and first["weights"] == second["weights"]
    alone = fit(AddsLoss(), str(tmp_path))
    assert json.loads(json.dumps(alone["plan"])) == first["plan"]
    for name, values in alone["weights"].items():
        assert values == pytest.approx(first["weights"][name], rel=1e-6, abs=1e-9)


def test_two_processes_agree_on_what_a_training_step_reads_though_one_of_them_alone_fails(tmp_path):
    first, second = two_processes("ddp_reads_script.py", tmp_path)
    assert first["weights"] == second["weights"] and first["report"]["groups"] == second["report"]["groups"]
    stays = {name: reason for name, _, reason in first["report"]["frozen"]}
    assert stays == {name: reason for name, _, reason in second["report"]["frozen"]}
    assert "training_step can't follow a cut" in stays["0.0"] and "the second process alone minds" in stays["1.0"]
    assert 0.6 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.7
