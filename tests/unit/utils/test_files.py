"""Files on a full disk and in a read-only folder."""

import os
import subprocess
import sys

import pytest
from helpers.features import refused, works
from helpers.networks import Chain
from helpers.paths import ENVIRONMENT
from helpers.pruned import pruned

import gdp

SCRIPT = """
import resource, signal, sys
import torch
import gdp
from helpers.networks import Chain
from helpers.paths import ENVIRONMENT
from helpers.pruned import pruned
net, path = pruned(Chain()), sys.argv[1]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # what a full disk looks like
try:
    gdp.save_pruned(net, path)
except gdp.GDPError as error:
    print(error)
"""


@pytest.mark.slow
@works("Bad input", "a disk that is full while saving", "`GDPError`; the old file stays whole")
def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "small.pt"
    gdp.save_pruned(pruned(Chain()), path)
    whole = path.read_bytes()
    command = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert "could not be written (OSError" in done.stdout and "untouched" in done.stdout, done.stderr[-2000:]
    assert path.read_bytes() == whole and os.listdir(tmp_path) == ["small.pt"]


@refused("Bad input", "saving into a folder that is read-only or missing", "could not be written…choose another folder")
def test_a_read_only_folder_says_what_to_do(refusal):
    with refusal:
        gdp.save_pruned(pruned(Chain()), "/proc/small.pt")
