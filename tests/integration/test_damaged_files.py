"""What broken input does: a sentence, and nothing of the user's is lost."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.features import refused, works
from helpers.networks import Chain
from helpers.paths import ENVIRONMENT
from helpers.pruned import pruned
from helpers.recorders import Gates
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import ModelCheckpoint

import gdp
from gdp import GDPCallback


def damaged(whole: bytes, every: int):
    """The file with one bit flipped: in every so many bytes, and in every byte of its directory at the end."""
    places = sorted({*range(0, len(whole), every), *range(len(whole) - 1500, len(whole), 5)})
    for i, place in enumerate(places):
        yield whole[:place] + bytes([whole[place] ^ (1 << i % 8)]) + whole[place + 1 :]
    for length in range(0, len(whole), len(whole) // 20 + 1):
        yield whole[:length]


@works("Bad input", "a pruned file with flipped bits, or truncated", "`GDPError`, or the bit did not matter")
def test_a_pruned_file_is_loaded_as_it_was_written_or_not_at_all(tmp_path):
    path, net = tmp_path / "small.pt", pruned(Chain())
    gdp.save_pruned(net, path)
    whole, refusals, count = path.read_bytes(), 0, 0
    for content in damaged(whole, 61):
        path.write_bytes(content)
        fresh, count = Chain(), count + 1
        before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
        try:
            loaded = gdp.load_pruned(fresh, path).state_dict()
        except gdp.GDPError:
            refusals += 1
            assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
        else:
            assert all(torch.equal(tensor, loaded[name]) for name, tensor in net.state_dict().items())
    assert count > 300 and refusals > 0.6 * count


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
    values = lit.net[1][0].weight.numel() * 4
    place = max(whole.find(bytes(16)), len(whole) // 2)
    whole[place] ^= 4
    path.write_bytes(whole)
    before = {name: tensor.clone() for name, tensor in lit.state_dict().items()}
    with refusal:
        trainer(GDPCallback(0.5), epochs=4).fit(lit, loader(), ckpt_path=path)
    assert values and before.keys() == lit.state_dict().keys()
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


@works("Bad input", "a loss that is not finite for some steps", "gates hold still then, and a warning names the step")
@pytest.mark.parametrize("way", ["epoch", "end"])
def test_gates_hold_still_while_the_loss_is_not_finite(way):
    class Sometimes(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss + float("nan") if 20 <= self.global_step < 27 else loss

    lit, pruning = Sometimes(), GDPCallback(0.5, shrink=way)
    gates = Gates(pruning)
    with pytest.warns(UserWarning, match=r"the loss or a gradient of step 21 is not finite, and gates hold still"):
        trainer(pruning, gates, epochs=20).fit(lit, loader())
    assert all(torch.equal(gates.values[i], gates.values[19]) for i in range(20, 27))
    assert not torch.equal(gates.values[27], gates.values[19]) and not torch.equal(gates.values[18], gates.values[19])
    assert 0.49 <= pruning.report.remaining <= 0.5


@works("Bad input", "weights that have become NaN", "gates hold still; the cut is made and compared all the same")
def test_a_broken_training_ends_without_a_second_error():
    class Broken(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.global_step >= 10 else loss

    lit, pruning = Broken(), GDPCallback(0.5)
    gates = Gates(pruning)
    with pytest.warns(UserWarning, match="loss or a gradient of step 11 is not finite"):
        trainer(pruning, gates, epochs=10).fit(lit, loader())
    assert all(torch.equal(value, gates.values[9]) for value in gates.values[10:])
    assert 0.49 <= pruning.report.remaining <= 0.5


@works("Bad input", "a loss that ignores part of the network", "what no loss asks for goes first")
def test_a_loss_that_ignores_part_of_the_network():
    class Part(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.ModuleDict({"stem": self.net[:2], "head": self.net[2:], "other": torch.nn.Sequential(
                torch.nn.Conv2d(16, 12, 3), torch.nn.ReLU(), torch.nn.Conv2d(12, 4, 1))})  # fmt: skip

        def forward(self, x):
            x = self.net["stem"](x)
            return self.net["head"](x), self.net["other"](x)

        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0])[0], batch[1])

        def validation_step(self, batch, batch_idx): ...

    pruning = GDPCallback(0.5)
    trainer(pruning, epochs=8).fit(Part(), loader())
    kept = {name: n for name, n, _ in pruning.report.groups}
    assert 0.49 <= pruning.report.remaining <= 0.5 and kept["net.other.0"] <= 3


@works("Bad input", "batches of one image")
def test_a_batch_of_one():
    pruning = GDPCallback(0.5)
    trainer(pruning, epochs=4).fit(Lit(), loader(16, batch_size=1))
    assert 0.49 <= pruning.report.remaining <= 0.5


@refused(
    "Bad input",
    "an example input without data (device `meta`)",
    "Expected `example_input_array` of … to hold numbers, but it is on the device 'meta'.",
)
def test_an_example_on_a_device_without_data(refusal):
    class Meta(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = torch.randn(1, 3, 12, 12, device="meta")

    with refusal:
        trainer(GDPCallback(0.5)).fit(Meta(), loader())


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
