"""The document of the coverage run: one section is written, the others stay; what is wrong with a network is said."""

import pytest
import torch
from torch import nn

from benchmarks.coverage.measure import outputs
from benchmarks.coverage.models import SUITES, other_inputs, prepare
from benchmarks.coverage.packages import PACKAGES, packaged_names
from benchmarks.coverage.packages_document import TITLE, packages_of, packages_section, with_packages

MEASURED = "# Coverage\n\n## Summary\n\n| a | b |\n\n## Next steps\n\nnone\n"
GOOD = {
    "suite": "packages", "name": "kornia.HardNet", "step": "done", "dtype": "float32", "version": "1.2",
    "input_shape": [1, 1, 32, 32],
    "parameters": 1_000_000, "flops": 2_000_000_000, "removable": 0.9, "groups": 6, "frozen": {"amax": 1},
    "error": 1e-7, "opened": 0.1, "input": 0.2, "flops_predicted": 10, "flops_cut": 10, "untrained": 0,
    "check_s": 1.0, "check_cpu_s": 1.0,
}  # fmt: skip
FAILED = {
    "suite": "packages",
    "name": "spandrel.SPAN",
    "step": "check",
    "version": "3.4",
    "failed": "GDPError: no",
    "seconds": 1.0,
}


def test_a_section_is_added_and_replaced_while_all_else_stays():
    first = with_packages(MEASURED, f"{TITLE}\n\nfirst\n")
    assert first == f"{MEASURED}\n{TITLE}\n\nfirst\n"
    assert with_packages(first, f"{TITLE}\n\nsecond\n") == f"{MEASURED}\n{TITLE}\n\nsecond\n"


def test_the_other_suites_keep_the_section_that_is_there():
    old = with_packages(MEASURED, f"{TITLE}\n\n| a |\n\n### Every network\n")
    new = "# Coverage\n\nnew\n"
    assert with_packages(new, packages_of(old)) == f"{new}\n{TITLE}\n\n| a |\n\n### Every network\n"
    assert with_packages(new, packages_of(MEASURED)) == new


def test_the_section_has_a_row_for_every_network_and_one_for_every_package():
    text = packages_section([FAILED, GOOD])
    assert text.startswith(f"{TITLE}\n")
    row = ["`kornia.HardNet`", "1.2", "1 x 1 x 32 x 32", "1.00 M", "2.00 G", "90.0%", "6", "1", "1e-07", "1e-01"]
    assert f"| {' | '.join([*row, 'yes', 'yes', '1.00'])} |" in text.splitlines()
    networks = text.partition("### Every network")[2].partition("###")[0].strip().splitlines()
    assert networks[0].startswith("| network | version | input | parameters | FLOPs |")
    assert len(networks) == 4 and len({line.count("|") for line in networks}) == 1
    assert "| kornia 1.2 | 1 | 1 of 1 | 1 of 1 | 1 of 1 | 90.0% | 1.00 |" in text.splitlines()
    assert "| spandrel 3.4 | 1 | 0 of 1 | 0 of 1 | 0 of 1 |  |  |" in text.splitlines()
    assert "- `spandrel.SPAN` fails at step 'check' with \"GDPError: no\"" in text


@pytest.mark.parametrize(
    "change, said",
    [
        ({"error": 1e-3, "opened": 1.0, "input": 1.0}, "is not exact (1.0e-03)"),
        ({"opened": 1e-6}, "has a weak control"),
        ({"flops_cut": 11}, "counts 10 FLOPs where fvcore counts 11"),
        ({"check_s": 50.0, "check_cpu_s": 21.0}, "takes 50.0 s (21.0 s CPU) to check"),
        ({"removable": 0.4}, "can lose only 40.0% of its FLOPs"),
    ],
)
def test_what_is_wrong_with_a_network_is_said(change, said):
    assert said in packages_section([GOOD | change])
    assert said not in packages_section([GOOD])


def test_a_large_network_may_take_longer_to_check():
    assert "to check" not in packages_section([GOOD | {"parameters": 40_000_000, "check_cpu_s": 30.0}])


def test_at_least_forty_networks_have_different_names():
    assert len(set(packaged_names())) == len(packaged_names()) >= 40
    assert len(PACKAGES) >= 7 and "packages" in SUITES


@pytest.mark.parametrize(
    "net, shape",
    [
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU()), (2, 40)),
        (nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU()), (1, 9, 8, 7)),
    ],
    ids=["sound", "volume"],
)
def test_random_numbers_are_made_for_lines_and_volumes(net, shape):
    inputs = (torch.zeros(1, *shape), torch.tensor(3))
    made, step = other_inputs(inputs, seed=1, batch=2)
    assert made.shape == (2, *shape) and step == 3 and made.std() > 0.5
    prepare(net.eval(), inputs[:1])
    assert float(net[1].running_var.std()) > 0
    assert outputs(net, (made,))[0].std() > 0


def test_weights_that_are_not_trained_stay():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1, bias=False))
    net[1].weight.requires_grad_(False).copy_(torch.arange(4.0).view(1, 4, 1, 1))
    prepare(net.eval(), (torch.zeros(1, 3, 6, 6),))
    assert net[1].weight.flatten().tolist() == [0, 1, 2, 3]
