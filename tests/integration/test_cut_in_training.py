"""`GDPCallback(shrink=...)` with real Trainers: the same network in the end, whatever else takes part in the run."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers.cuts import assert_same, fit
from helpers.features import refused, works
from helpers.recorders import Sizes
from helpers.training import Lit, images, loader, small_net, two_processes
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.slow


WAYS = ["end", "epoch", 3]


def test_the_network_shrinks_in_training_and_ends_the_same():
    late, *early = (fit(way) for way in WAYS)
    assert len(set(late[2].sizes)) == 1
    steps = len(late[2].sizes)
    for found, every in zip(early, (4, 3), strict=True):
        assert_same(late, found)
        sizes = found[2].sizes
        assert sizes[-1] < sizes[0] / 2 and sorted(sizes, reverse=True) == sizes
        changes = [i for i in range(1, steps) if sizes[i] != sizes[i - 1]]
        # at the end of epochs, or after so many steps, and once more when the window ends
        assert len(changes) >= 3 and all(i % every == 0 or i == round(0.6 * steps) for i in changes)
        assert found[2].objects == [id(p) for p in found[0].parameters()]
        assert found[1].max_rel <= 1e-9


def test_a_scheduler_with_accumulation_and_clipping_ends_the_same():
    class Scheduled(Lit):
        def __init__(self) -> None:
            super().__init__()
            for layers in self.net[:3]:  # a bias before a batch norm has no gradient but rounding, which AdamW enlarges
                layers[0].bias = None

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), 0.01)
            steps = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    settings = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "data": loader(112), "make": Scheduled}
    late, early = fit("end", **settings), fit("epoch", **settings)
    assert_same(late, early)
    assert early[2].sizes[-1] < late[2].sizes[-1]


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize(
    "average",
    [
        lambda: EMAWeightAveraging(decay=0.9),
        lambda: StochasticWeightAveraging(0.01, swa_epoch_start=3),
        lambda: StochasticWeightAveraging(0.01, swa_epoch_start=8),
    ],
    ids=["ema", "swa inside the window", "swa after it"],
)
def test_averages_are_cut_along(average, turn):
    ends = []
    for way in WAYS:
        averaging = average()
        ends.append(fit(way, averaging, turn=turn))
        copied = averaging._average_model
        copied = copied.module if isinstance(copied, AveragedModel) else copied
        assert [p.shape for p in copied.parameters()] == [p.shape for p in ends[-1][0].parameters()]
        assert not any("gate" in name for name in copied.state_dict())
        # the averaged weights are what is left, closed channels are cut from them
        assert all(torch.equal(p, q) for p, q in zip(copied.parameters(), ends[-1][0].parameters(), strict=True))
        assert 0.39 <= ends[-1][1].remaining <= 0.4
    for early in ends[1:]:
        assert_same(ends[0], early)
        assert early[2].sizes[-1] < ends[0][2].sizes[-1]
    assert not torch.equal(fit("end")[0].net[0][0].weight, ends[0][0].net[0][0].weight)


class WithAverage(Lit):
    """A moving average of the network as a part of the LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        self.average.requires_grad_(False)

    def on_train_batch_end(self, *_):
        self.average.update_parameters(self.net)

    def validation_step(self, batch, batch_idx):
        self.log("val", nn.functional.cross_entropy(self.average(batch[0]), batch[1]))


def test_an_average_inside_the_lightning_module_is_cut_along():
    ends = [fit(way, make=WithAverage, module="net") for way in WAYS]
    for late, early in zip(ends[:1] * 2, ends[1:], strict=True):
        assert_same(late, early)
        torch.testing.assert_close(late[3].callback_metrics["val"], early[3].callback_metrics["val"])
    # without `module`, the LightningModule itself is the network, and the average is one of a part of it
    assert_same(*(fit(way, make=WithAverage) for way in ("end", 2)))


@refused(
    "Other callbacks",
    "a teacher, or an average made by hand, while channels are cut in training",
    "has the same tensors as the network that is pruned. …AveragedModel… GDPCallback(shrink='end')…"
    "gdp.cut_like(average, network).",
)
def test_a_second_network_that_nobody_knows_is_refused_before_the_first_step(refusal):
    class WithTeacher(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = copy.deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.loss(self(x), y) + nn.functional.mse_loss(self(x), self.teacher(x))

    class Holder(Callback):
        def __init__(self) -> None:
            self.copy = small_net()

    for module in ("net", None):
        with refusal as found:
            fit("epoch", make=WithTeacher, module=module)
        assert "'teacher'" in str(found.value)
    with refusal as found:
        fit("epoch", Holder())
    assert "'Holder.copy'" in str(found.value)
    lit, report, *_ = fit("end", make=WithTeacher, module="net")
    assert report.remaining <= 0.4 and lit.teacher[0][0].out_channels == 8


@refused(
    "Training loop",
    "optimizers whose state has other shapes than the parameters, such as Adafactor, with cuts in training",
    "gdp can cut state of the parameter's own shape only…GDPCallback(shrink='end')",
)
def test_optimizer_state_that_cannot_be_cut_is_refused_after_the_first_step(refusal):
    class Factored(Lit):
        def configure_optimizers(self):
            return torch.optim.Adafactor(self.parameters(), 0.01)

    steps = Sizes()
    with refusal as found:
        fit("epoch", steps, make=Factored)
    assert "Adafactor keeps 'row_var' of shape" in str(found.value)
    assert len(steps.sizes) == 1
    assert fit("end", make=Factored)[1].remaining <= 0.4


STEPS = (3, 12, 18, 24, 36)  # before, inside and after the window, at the end of an epoch and inside one


@works("Checkpoints and resume", "a checkpoint at any step, with and without averages", "resumes bit for bit")
@pytest.mark.parametrize(
    "average, steps",
    [
        (None, STEPS),
        (lambda: EMAWeightAveraging(decay=0.9), STEPS),
        # without gdp as well, Lightning's StochasticWeightAveraging does not resume exactly in the epochs it averages
        (lambda: StochasticWeightAveraging(0.01, 7), (3, 12, 18, 21, 33)),
    ],
    ids=["no average", "ema", "swa"],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, average, steps):
    def run(resume=None):
        save = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=3, monitor=None)
        callbacks = [save] if average is None else [average(), save]
        # Lightning begins an epoch's data anew when it resumes inside the epoch, so all batches are the same here
        x, y = images(16).tensors
        data = DataLoader(TensorDataset(x.repeat(4, 1, 1, 1), y.repeat(4)), 16)
        return fit("epoch", *callbacks, data=data, resume=resume, enable_checkpointing=True, precision="32-true")

    whole = run()
    checkpoints = {int(p.stem.split("=")[1]): p for p in list(tmp_path.glob("step=*.ckpt"))}
    for step in steps:
        again = run(checkpoints[step])
        assert_same(whole, again, rtol=0, atol=0)


@works("torch.compile", "networks that shrink", "compiled once per cut, however many there are")
def test_compiled_networks_are_compiled_once_per_cut():
    """By torch.compile around the network, in place, and around the LightningModule; more often than the limit of 8."""
    calls: list[str] = []

    def counting(graph, example_inputs):
        calls.append("train" if any("batch_norm" in str(n.target) for n in graph.graph.nodes) else "other")
        return graph.forward

    class Around(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend=counting)

    class InPlace(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net.compile(backend=counting)

    def whole() -> pl.LightningModule:
        return torch.compile(Lit(), backend=counting)

    for make, epochs in ((Around, 60), (InPlace, 8), (whole, 8)):
        late = fit("end", epochs=epochs, limit_val_batches=0)
        torch.compiler.reset()
        calls.clear()
        lit, _, sizes, _ = early = fit(1, make=make, epochs=epochs, limit_val_batches=0)
        lit = getattr(lit, "_orig_mod", lit)
        lit.net = getattr(lit.net, "_orig_mod", lit.net)
        assert_same(late, (lit, *early[1:]))
        cuts = sum(a != b for a, b in zip(sizes.sizes, sizes.sizes[1:], strict=False))
        # one when gdp asks what the network gets to see, one when training begins, one when gates act, one per cut
        assert cuts > (8 if epochs == 60 else 2) and calls.count("train") <= 3 + cuts
    torch.compiler.reset()


def test_a_cut_that_fails_in_training_waits_for_the_end():
    class Strict(nn.Sequential):
        strict = False

        def forward(self, x):
            for layer in self:
                x = layer(x)
                if layer is self[0] and self.strict:
                    x = x.view(len(x), 8, 12, 12)
            return x

    class Switched(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Strict(*self.net)

        def on_train_epoch_start(self):
            self.net.strict = 0 < self.current_epoch < 9  # not yet when gdp tries

    late = fit("end", make=Switched)
    with pytest.warns(UserWarning, match="a cut on the way failed, so channels are cut when training is over.*view"):
        early = fit("epoch", make=Switched)
    assert_same(late, early)
    assert early[2].sizes == late[2].sizes


def test_two_processes_shrink_alike_and_end_as_if_cut_at_the_end(tmp_path):
    first, second = two_processes("ddp_shrink_script.py", tmp_path)
    assert {k: v for k, v in first.items() if k != "alone"} == {k: v for k, v in second.items() if k != "alone"}
    for late, early in ((first["end"], first["epoch"]), (first["end"], first["2"])):
        assert late["plan"] == early["plan"] and late["sizes"][-1] > 2 * early["sizes"][-1]
        assert early["weights"] == pytest.approx(late["weights"], rel=1e-9)
    assert first["end"]["weights"] != pytest.approx(first["alone"]["weights"], rel=1e-3)  # gradients are averaged


class Centred(Lit):
    """Outputs are small differences of large numbers, so that float32 can't tell a wrong cut from rounding."""

    def __init__(self) -> None:
        super().__init__()

        class Net(nn.Sequential):
            def forward(self, x):
                out = super().forward(x.flatten(1))
                return out - out.mean(1, keepdim=True)

        self.net = Net(nn.Linear(432, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4))
        nn.init.normal_(self.net[4].weight, 1.0, 1e-4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-9, momentum=0.9)


@pytest.mark.parametrize("way", ["epoch", "end"])
def test_float64_decides_while_there_are_gradients(way):
    lit, report, sizes, _ = fit(way, make=Centred, precision="32-true")
    assert 0 < report.max_rel <= 1e-9 and report.remaining <= 0.4  # the difference in float64
    assert (sizes.sizes[-1] < sizes.sizes[0]) == (way == "epoch")
    assert all(p.dtype == torch.float32 for p in lit.parameters())


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_manual_optimization_in_other_precisions(precision):
    class Manual(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(self(batch[0]), batch[1]))
            optimizer.step()

    assert fit("epoch", make=Manual, epochs=4, precision=precision)[1].remaining <= 0.4


def test_the_reference_of_these_tests_is_what_they_think():
    assert_same(fit("end", Sizes()), fit("end"))
