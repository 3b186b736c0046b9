"""The guide for authors of methods: its code runs from top to bottom, and does what the text says."""

import inspect
import re

import pytest
import pytorch_lightning as pl
import torch
from helpers.contexts import of_network
from helpers.paths import ROOT
from helpers.training import Data, Lit, images, loader, small_net

import gdp
from gdp.methods import PruningMethod, StepContext

GUIDE = (ROOT / "docs" / "writing_a_method.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
X = images().tensors[0][:1]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All names after the code of the page has run, in a folder of its own."""
    pl.seed_everything(0)
    net = small_net()
    names = {"model": Lit(), "datamodule": Data(), "net": net, "plain": small_net(), "example_input": X}
    names |= {"optimizer": torch.optim.SGD(net.parameters(), 0.05), "batches": list(loader()) * 3, "said": []}
    names["print"] = lambda text: names["said"].append(str(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("guide"))
        for block in BLOCKS:
            exec(block, names)
    return names


def test_both_runs_of_the_page_meet_the_target(ran):
    for report in (ran["callback"].report, ran["report"]):
        assert 0.48 <= report.remaining <= 0.5 and report.max_rel <= 1e-5
    assert gdp.utils.count_flops(ran["net"], X) == ran["report"].flops_after
    assert ran["said"][0].strip().startswith("gdp: what is left")


def test_both_taylors_are_the_one_that_gdp_has(ran):
    context = of_network(small_net(), X)
    gradients = torch.randn(3, len(context.gate_param))
    scores = []
    for method in (ran["MyTaylor"](), ran["ShortTaylor"](), gdp.methods.get("taylor")()):
        state = method.init_state(gradients.shape[1])
        for gradient in gradients:
            state = method.update(state, gradient, context)
        scores.append(method.importance(state, context))
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[0], scores[2])


def test_the_penalty_is_the_sum_of_the_norms_of_the_filters(ran):
    net = small_net()
    context = of_network(net, X, steps=20)
    with torch.enable_grad():
        penalty = ran["GroupLasso"](strength=0.1).penalty({}, context)
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = torch.cat([m.weight.flatten(1).norm(dim=1) for m in convs])
    assert context.progress == 0.5
    assert penalty.item() == pytest.approx(0.1 * 0.5 * norms.sum().item(), rel=1e-5)


def test_what_is_wrong_is_said_as_the_page_has_it(ran):
    written = re.search(r"print\(error\)  # (.*), \.\.\.", BLOCKS[-1])[1]
    assert ran["said"][-1].startswith(written)
    assert not any("gdp" in key for key in ran["plain"].state_dict())


def test_every_name_of_the_page_is_there():
    for row in re.findall(r"^\| (`.*?) \|.*\| (.*?) \|$", GUIDE, re.M):
        for name in re.findall(r"`(\w+)", row[0]):
            assert hasattr(PruningMethod, name), name
        for name in re.findall(r"`(\w+)", row[1]):
            assert inspect.isclass(getattr(gdp.methods, name)), name
    (sentence,) = re.findall(r"a `StepContext`: (.*?)\. `rank_match`", GUIDE, re.S)
    fields = StepContext.__dataclass_fields__
    for name in re.findall(r"`(\w+)", sentence):
        assert hasattr(StepContext, name) or name in fields, name
    for path in re.findall(r"`((?:gdp|tests)/[\w/]+\.py)`", GUIDE):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ["README.md", "docs/method.md"])
def test_the_guide_is_linked(page):
    assert "writing_a_method.md" in (ROOT / page).read_text()
