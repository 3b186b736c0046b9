"""gdp with Lightning's strategies: every process decides alike, and what can't work is refused at once."""

import json
import os

import pytest
import torch
from helpers.features import refused, works
from helpers.training import Lit, loader, trainer, two_processes
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy
from scripts.strategies_script import WAYS, Plain, run
from torch import nn

from gdp import GDPCallback
from gdp.lightning import check_setup

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return two_processes("strategies_script.py", tmp_path_factory.mktemp("ranks"))


FEATURES = {
    "plain": "DDP from a script",
    "bucket views": "`DDPStrategy(gradient_as_bucket_view=True)`",
    "static graph": "`DDPStrategy(static_graph=True)`",
    "batch norm": "DDP from a script",
    "unused": "`ddp_find_unused_parameters_true`",
    "one is nan": "DDP where the loss of one process is not finite",
}


@pytest.mark.parametrize("way", [pytest.param(w, marks=works("Strategies", FEATURES[w])) for w in WAYS])
def test_all_processes_decide_alike(ranks, way):
    first, second = (rank[way] for rank in ranks)
    assert first["rank"] == 0 and second["rank"] == 1
    assert first["steps"] == second["steps"] and first["raw"] == second["raw"]
    same = {key: value for key, value in first["report"].items() if not key.startswith("max_")}
    assert same.items() <= second["report"].items()
    assert first["plan"] == second["plan"] and first["weights"] == second["weights"]
    assert 0.49 <= first["report"]["flops_after"] / first["report"]["flops_before"] <= 0.5


def test_the_gates_of_all_processes_hold_still_when_one_loss_is_not_finite(ranks):
    steps = ranks[0]["one is nan"]["steps"]
    assert len(set(steps[7:13])) == 1 and steps[13] != steps[12] and steps[6] != steps[7]


@works("Strategies", "DDP against one process with the same global batches", "equal within rounding")
@pytest.mark.parametrize("way", ["plain", "bucket views", "static graph"])
def test_two_processes_end_where_one_does(ranks, way, tmp_path):
    alone, together = run(Plain, tmp_path), ranks[0][way]
    assert json.loads(json.dumps(alone["plan"])) == together["plan"]
    assert alone["raw"] == pytest.approx(together["raw"], rel=1e-5)
    for name, values in alone["weights"].items():
        assert values == pytest.approx(together["weights"][name], rel=1e-6, abs=1e-9)


@works(
    "Strategies",
    "processes that Lightning spawns or forks: `ddp_spawn`, `ddp_fork`, `ddp_notebook`",
    "what comes back is dense with exact zeros, as Lightning sends back shapes as they were; "
    "`gdp.remove_zeros(net, example)` cuts it",
)
def test_spawned_processes(ranks, tmp_path):
    one, other, main = two_processes("spawn_script.py", tmp_path, ["raw0.json", "raw1.json", "main.json"])
    script = ranks[0]["plain"]
    assert one == other
    for found in main:
        assert found["dense width"] == 16 and 0.49 <= found["remains"] <= 0.5 and found["difference"] < 1e-12
        # the same network that the script's two processes end with
        assert found["plan"]["keep"] == script["plan"]["keep"]
        for name, values in found["weights"].items():
            assert values == pytest.approx(script["weights"][name], rel=1e-6, abs=1e-9)


SENTENCE = "splits the network's tensors among processes, and gdp needs them whole. Use strategy='ddp'"


@refused("Strategies", "FSDP", f"OnCpu {SENTENCE}")
def test_fsdp_is_refused_before_the_first_step(refusal, monkeypatch):
    class OnCpu(FSDPStrategy):
        """Lightning itself refuses FSDP without a GPU, but not what is derived from it."""

    class Unused(Lit):
        def training_step(self, batch, batch_idx):
            raise AssertionError("no step may run")

    lit = Unused()
    keys = list(lit.state_dict())
    monkeypatch.setenv("MASTER_PORT", str(20000 + os.getpid() % 10000))
    try:
        with refusal:
            trainer(GDPCallback(0.5), strategy=OnCpu(), devices=1).fit(lit, loader())
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert list(lit.state_dict()) == keys


@refused("Strategies", "DeepSpeed, and model parallelism", f"DeepSpeedStrategy {SENTENCE}")
def test_deepspeed_is_refused(refusal):
    class Run:
        callbacks = ()
        strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)  # its constructor asks for the deepspeed package

    with refusal:
        check_setup(Run())


@works("Strategies", "SyncBatchNorm, converted by Lightning or by the user")
@pytest.mark.parametrize("by", ["Lightning", "user"])
def test_synchronised_batch_norm(by):
    class Converts(SingleDeviceStrategy):
        """Converts as DDPStrategy does, at the same moment; on a CPU torch can't synchronise several processes."""

        def setup(self, trainer):
            self.model = TorchSyncBatchNorm().apply(self.model)
            super().setup(trainer)

    lit, pruning = Lit(), GDPCallback(0.5)
    if by == "user":
        lit.net = nn.SyncBatchNorm.convert_sync_batchnorm(lit.net)
    strategy = Converts(device="cpu") if by == "Lightning" else "auto"
    trainer(pruning, strategy=strategy).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
    norm = lit.net[1][1]
    assert isinstance(norm, nn.SyncBatchNorm) and norm.num_features == len(norm.weight) == len(norm.running_mean) < 16
