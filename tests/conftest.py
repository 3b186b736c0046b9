from pathlib import Path

import pytest
import torch
from helpers import features

import gdp

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_weights_every_time():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def any_algorithm():
    """Lets operators run that have no deterministic implementation, whatever a Trainer before has asked for."""
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def refusal(request):
    """Expects the sentence of the test's `refused` mark."""
    sentence = request.node.get_closest_marker("feature").kwargs["sentence"]
    assert sentence
    return pytest.raises(gdp.GDPError, match=features.pattern(sentence))


def pytest_addoption(parser):
    parser.addoption("--compatibility", help="write the table of what the tests marked as features prove to this file")


def pytest_configure(config):
    config.addinivalue_line("markers", "feature(area, name, outcome, sentence): a row of docs/compatibility.md")
    config.addinivalue_line("markers", "slow: left out by `make test-fast`")


def pytest_sessionfinish(session, exitstatus):
    target = session.config.getoption("--compatibility")
    if target and exitstatus == 0:
        Path(target).write_text(features.document(session.items))
