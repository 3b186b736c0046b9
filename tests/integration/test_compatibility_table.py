import subprocess
import sys

import pytest
from helpers import features
from helpers.paths import TESTS

pytestmark = pytest.mark.slow


def test_the_document_is_what_the_tests_say(tmp_path):
    written = tmp_path / "compatibility.md"
    options = ["--collect-only", "-q", "-m", "feature", "-p", "no:cacheprovider", f"--compatibility={written}"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, str(TESTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert written.read_text() == features.DOCUMENT.read_text(), "make compatibility writes docs/compatibility.md anew"
