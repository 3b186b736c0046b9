import pytest
from helpers.training import two_processes

pytestmark = pytest.mark.slow


def test_two_processes_decide_alike_and_end_with_the_same_network(tmp_path):
    first, second = two_processes("ddp_script.py", tmp_path)
    assert first["plan"] == second["plan"] and first["weights"] == second["weights"]
    assert first["report"]["groups"] == second["report"]["groups"]
    assert 0.49 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.5


def test_two_processes_agree_on_what_a_training_step_reads_though_one_of_them_alone_fails(tmp_path):
    first, second = two_processes("ddp_reads_script.py", tmp_path)
    assert first["weights"] == second["weights"] and first["report"]["groups"] == second["report"]["groups"]
    stays = {name: reason for name, _, reason in first["report"]["frozen"]}
    assert stays == {name: reason for name, _, reason in second["report"]["frozen"]}
    assert "training_step can't follow a cut" in stays["0.0"] and "the second process alone minds" in stays["1.0"]
    assert 0.6 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.7
