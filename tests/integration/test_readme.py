import re

import pytest
import pytorch_lightning as pl
import torch
from helpers.paths import ROOT
from helpers.training import Data, Lit, images, loader, small_net

import gdp

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_code_blocks_run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.seed_everything(0)
    first, keep, check, plain = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in first.splitlines() if line]) == 5
    names = {"model": Lit(), "datamodule": Data(), "MyNet": small_net}
    exec(first, names)
    assert 0.39 <= names["callback"].report.remaining <= 0.4
    exec(keep, names)
    x = images().tensors[0]
    assert torch.equal(names["net"].eval()(x), names["model"].net.eval()(x))

    net = small_net()
    names |= {"net": net, "optimizer": torch.optim.SGD(net.parameters(), 0.05), "batches": list(loader()) * 5}
    names["example_input"] = x[:1]
    exec(check, names)
    assert names["report"].dry_run and names["report"].remaining < 0.1
    exec(plain, names)
    assert 0.49 <= names["report"].remaining <= 0.5


def test_what_the_readme_names_is_there():
    targets = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z0-9-]+)", README)) - {"a"}:
        assert f"\n{target}:" in targets, target
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    assert "<!--" not in README and "gdp: what is left" in README


def test_the_table_of_methods_has_every_name_once():
    table = README[README.index("| `method=` |") : README.index("Numbers are those of arXiv")]
    cells = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    assert sorted(re.findall(r'`"([a-z0-9]+)"`', " ".join(cells))) == gdp.methods.names()
