import pickle
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers.paths import ROOT
from PIL import Image

import gdp
from lightning_modules import CIFAR10Data, Classification, DigitsData, ImageFolderData
from lightning_modules.classification import build
from lightning_modules.train import main

pytestmark = pytest.mark.slow


def folder_of_images(root: Path, splits: dict[str, int], size: int = 32) -> Path:
    random = np.random.default_rng(0)
    for split, number in splits.items():
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "name, parameters", [("resnet20", 269_722), ("resnet56", 853_018), ("mobilenet_v2", 2_236_682)]
)
def test_networks_by_name(name, parameters):
    net = build(name, 10)
    assert gdp.utils.count_parameters(net) == parameters
    assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_an_unknown_network_is_refused():
    with pytest.raises(
        ValueError, match=r"Expected `model` to be resnet20, resnet56 or a torchvision classifier.*'resnet21'"
    ):
        Classification("resnet21")


def test_weights_are_loaded(tmp_path):
    net = build("resnet20", 10)
    torch.save(net.state_dict(), tmp_path / "start.pt")
    lit = Classification("resnet20", weights=tmp_path / "start.pt")
    assert all(torch.equal(v, lit.net.state_dict()[k]) for k, v in net.state_dict().items())


def test_digits_are_split_once_and_for_all():
    first, second = DigitsData(), DigitsData()
    for data in (first, second):
        data.setup("fit")
    assert [len(first.splits[s]) for s in ("train", "val", "test")] == [1078, 179, 540]
    assert torch.equal(first.splits["test"].tensors[0], second.splits["test"].tensors[0])
    x, y = next(iter(first.train_dataloader()))
    assert x.shape == (64, 1, 8, 8) and x.min() >= -1 and x.max() <= 1 and y.dtype == torch.long


def test_image_folders(tmp_path):
    data = ImageFolderData(
        folder_of_images(tmp_path, {"train": 10, "val": 3}, 80), batch_size=4, num_workers=0, size=70
    )
    data.prepare_data()
    data.setup("fit")
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 70, 70)
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [20, 6, 6]


def test_without_a_val_folder_every_tenth_image_is_held_out(tmp_path):
    data = CIFAR10Data(folder_of_images(tmp_path, {"train": 20, "test": 2}), batch_size=4, num_workers=0, limit=8)
    data.prepare_data()
    data.setup("fit")
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [8, 4, 4]
    held_out = set(data.splits["val"].indices)
    assert not held_out & {data.splits["train"].dataset.indices[i] for i in data.splits["train"].indices}
    assert next(iter(data.test_dataloader()))[0].shape == (4, 3, 32, 32)


def test_cifar10_as_torchvision_stores_it(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5((folder / name).read_bytes()).hexdigest()]

    random = np.random.default_rng(0)
    batch = {"data": random.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
    names = [write("data_batch_1", batch)], [write("test_batch", batch)]
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", names[0])  # checksums of these images
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", names[1])
    monkeypatch.setitem(torchvision.datasets.CIFAR10.meta, "md5", meta[1])
    data = CIFAR10Data(tmp_path, batch_size=2, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [18, 2, 20]
    assert next(iter(data.val_dataloader()))[0].shape == (2, 3, 32, 32)


def test_a_folder_without_images_says_what_is_expected(tmp_path):
    for data in (ImageFolderData(tmp_path), CIFAR10Data(tmp_path)):
        with pytest.raises(FileNotFoundError, match=r"one sub-folder per class in .*/train and .*/val \(or test\)"):
            data.prepare_data()


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lightning_modules.train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_run_from_a_config_ends_with_report_and_file(tmp_path):
    short = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=4", "--trainer.enable_progress_bar=false"]
    place = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"]
    done = run("fit", "--config=configs/digits_resnet20.yaml", *place, *short)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "gdp: what is left" in done.stdout and "test/accuracy" in done.stdout
    (saved,) = tmp_path.rglob("pruned.pt")
    net = gdp.load_pruned(build("resnet20", 10, channels=1), saved)
    assert 0.39 <= gdp.utils.count_flops(net, torch.zeros(1, 1, 8, 8)) / 2_540_416 <= 0.4


@pytest.mark.parametrize("config", sorted(p.name for p in (ROOT / "configs").glob("*.yaml")))
def test_configs_are_constructor_arguments(config, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "fit", f"--config={ROOT / 'configs' / config}", "--print_config"])
    precision = torch.get_float32_matmul_precision()
    with pytest.raises(SystemExit, match="0"):
        main()
    torch.set_float32_matmul_precision(precision)
    assert "class_path: gdp.GDPCallback" in capsys.readouterr().out


EXPECTED = {"train-imagenet": "train/<class>/ and val/<class>/", "train-cifar10": "cifar-10-batches-py"}


@pytest.mark.parametrize("target, expected", EXPECTED.items())
def test_make_says_what_data_it_expects(target, expected, tmp_path):
    for data in ([], [f"DATA={tmp_path}"]):
        done = subprocess.run(["make", target, *data], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and expected in done.stdout
        assert f"but got DATA='{str(tmp_path) if data else ''}'" in done.stdout
