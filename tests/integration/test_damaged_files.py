"""What broken input does: a sentence, and nothing of the user's is lost."""

import os

import pytest
import torch
from helpers.damage import damaged
from helpers.features import refused, works
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import ModelCheckpoint

import gdp
from gdp import GDPCallback


@pytest.mark.slow
@works("Bad input", "a checkpoint with flipped bits, or truncated", "`GDPError`, or the bit did not matter")
def test_a_checkpoint_is_loaded_as_it_was_written_or_not_at_all(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="whole")
    trainer(GDPCallback(0.5), save, epochs=3, enable_checkpointing=True).fit(Lit(), loader())
    path = tmp_path / "whole.ckpt"
    whole, expected = path.read_bytes(), gdp.load_checkpoint(Lit(), path).state_dict()
    for content in damaged(whole, len(whole) // 150):
        path.write_bytes(content)
        try:
            loaded = gdp.load_checkpoint(Lit(), path).state_dict()
        except gdp.GDPError:
            continue
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())


@refused("Bad input", "resuming from a checkpoint with flipped bits", "can't be read as a checkpoint…checksum")
def test_a_damaged_checkpoint_is_not_resumed_from(tmp_path, refusal):
    save = ModelCheckpoint(tmp_path, filename="whole")
    trainer(GDPCallback(0.5), save, epochs=2, enable_checkpointing=True).fit(Lit(), loader())
    path, lit = tmp_path / "whole.ckpt", Lit()
    whole = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=False)["state_dict"]["net.1.0.weight"]
    place = whole.find(weight.numpy().tobytes())
    assert place > 0
    whole[place] ^= 4
    path.write_bytes(whole)
    before = {name: tensor.clone() for name, tensor in lit.state_dict().items()}
    with refusal:
        trainer(GDPCallback(0.5), epochs=4).fit(lit, loader(), ckpt_path=path)
    assert before.keys() == lit.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in lit.state_dict().items())


@works("Bad input", "a hostile checkpoint", "`gdp.load_checkpoint` runs no code of a file")
def test_a_hostile_checkpoint_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": {}, "callbacks": {"GDPCallback": Hostile()}}, tmp_path / "evil.ckpt")
    with pytest.raises(gdp.GDPError, match="can't be read as a checkpoint of tensors and plain containers"):
        gdp.load_checkpoint(Lit(), tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


@refused("Bad input", "`gdp.load_checkpoint` of a run without gdp", "says nothing of gdp…load_from_checkpoint")
def test_a_checkpoint_without_gdp_is_refused(tmp_path, refusal):
    trainer(ModelCheckpoint(tmp_path, filename="dense"), epochs=1, enable_checkpointing=True).fit(Lit(), loader())
    with refusal:
        gdp.load_checkpoint(Lit(), tmp_path / "dense.ckpt")


@refused("Bad input", "`gdp.load_checkpoint` into another network", "expects net.…")
def test_another_network_is_refused_and_left_as_it_was(tmp_path, refusal):
    class Wide(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net[0][0] = torch.nn.Conv2d(3, 9, 3, padding=1)

    save = ModelCheckpoint(tmp_path, filename="small")
    trainer(GDPCallback(0.5), save, epochs=4, enable_checkpointing=True).fit(Lit(), loader())
    lit = Wide()
    before = {name: tensor.clone() for name, tensor in lit.state_dict().items()}
    with refusal:
        gdp.load_checkpoint(lit, tmp_path / "small.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in lit.state_dict().items())
