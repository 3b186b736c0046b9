"""Where the tests and the repository lie, and the environment in which tests start processes."""

import os
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}", "OMP_NUM_THREADS": "1"}
