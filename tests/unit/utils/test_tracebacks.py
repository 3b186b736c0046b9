"""The line that is named is the user's, whoever has called it."""

import contextlib
import copy
import json
import os

import fvcore.nn
import pytest
import pytorch_lightning
import torch
import torchmetrics

import gdp
from gdp.utils import is_user_file, source_line

LIBRARIES = [torch.nn.functional, fvcore.nn, pytorch_lightning, torchmetrics, gdp, json, contextlib]


@pytest.mark.parametrize("module", LIBRARIES)
def test_libraries_that_run_networks_are_not_the_users(module):
    assert not is_user_file(module.__file__)


@pytest.mark.parametrize("path", ["timm/models/resnet.py", "ultralytics/nn/tasks.py", "torchvision/models/vgg.py"])
@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_packages_that_hold_networks_are(path, folder):
    root = os.path.join(os.path.dirname(json.__file__), "..", folder)
    assert is_user_file(os.path.join(os.path.normpath(root), path))


def test_a_folder_that_begins_like_a_library_is_the_users():
    assert is_user_file(os.path.dirname(torch.__file__) + "_networks/net.py") and is_user_file(__file__)
    assert not is_user_file("<string>")


class Uncopyable:
    def __deepcopy__(self, memo):
        return copy.deepcopy(memo, None).nothing


CALLS = {
    "copy": lambda: copy.deepcopy({"a": [Uncopyable()]}),
    "json": lambda: json.loads("{"),
    "torch": lambda: torch.nn.functional.conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 9, 9)),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_line_of_an_error_inside_of_a_library_is_that_of_the_caller(name):
    with pytest.raises(Exception) as raised:  # noqa: PT011  any error, of which only the line is of interest
        CALLS[name]()
    line = source_line(raised.value)
    assert line.startswith("test_tracebacks.py:")
    assert "return copy.deepcopy(memo, None).nothing" in line if name == "copy" else f'"{name}": lambda' in line
