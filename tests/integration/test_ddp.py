import pytest
from helpers.training import two_processes

pytestmark = pytest.mark.slow


def test_two_processes_decide_alike_and_end_with_the_same_network(tmp_path):
    first, second = two_processes("ddp_script.py", tmp_path)
    assert first["plan"] == second["plan"] and first["weights"] == second["weights"]
    assert first["report"]["groups"] == second["report"]["groups"]
    assert 0.49 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.5
