import json
import os
import subprocess
import sys
from pathlib import Path


def test_two_processes_decide_alike_and_end_with_the_same_network(tmp_path):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "ddp_script.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["plan"] == second["plan"] and first["weights"] == second["weights"]
    assert first["report"]["groups"] == second["report"]["groups"]
    assert 0.49 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.5
