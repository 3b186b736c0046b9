import copy
import logging

import pytest
import pytorch_lightning as pl
import torch
from helpers.features import refused
from helpers.networks import Literal
from helpers.training import Direct, Late, Lit, LitWithBlocks, Nested, images, loader, small_net, trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

import gdp
from gdp import GDPCallback


class Watch(Callback):
    """Notes gates and outputs in every step, as a user's own callback could."""

    def __init__(self, pruning: GDPCallback) -> None:
        self.pruning, self.values, self.remaining, self.last = pruning, [], [], None

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.values.append(self.pruning.pruner.gates.values.clone())
        self.remaining.append(trainer.callback_metrics["gdp/flops"].item())

    def on_train_end(self, trainer, pl_module):
        self.last = outputs(pl_module)


def outputs(module: nn.Module) -> torch.Tensor:
    x, training = images().tensors[0], module.training
    with torch.no_grad():
        out = module.eval()(x)
    module.train(training)
    return out


def test_the_whole_path():
    pl.seed_everything(0)
    lit, pruning = Lit(), GDPCallback(target_flops=0.4)
    dense = gdp.utils.count_flops(lit.net, torch.zeros(1, 3, 12, 12))
    keys = list(lit.state_dict())
    watch = Watch(pruning)
    trainer(pruning, watch, epochs=30).fit(lit, loader(shuffle=True), loader())
    report = pruning.report
    # the target holds, by fvcore's own count of the network that is left
    assert gdp.utils.count_flops(lit.net, torch.zeros(1, 3, 12, 12)) == report.flops_after == report.flops_predicted
    assert 0.39 <= report.flops_after / dense <= 0.4
    # what was trained is what is left: same outputs as with gates, after the last step
    torch.testing.assert_close(outputs(lit), watch.last, rtol=1e-5, atol=1e-5)
    assert report.max_rel <= 1e-5
    # nothing of gdp is left
    assert list(lit.state_dict()) == keys and "configure_model" not in lit.__dict__
    assert {type(m).__module__.split(".")[0] for m in lit.modules()} == {"torch", "helpers"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lit.modules()) and pruning.pruner is None
    # gates close, some to exact zero by the end of the window, the others stay above one half, and then all rest
    steps, end = len(watch.values), round(0.6 * len(watch.values))
    settled = watch.values[end]
    assert ((settled == 0) | (settled > 0.5)).all() and 0 < (settled == 0).sum() < len(settled)
    assert all(torch.equal(v, settled) for v in watch.values[end:]) and steps == 120
    assert any(((v > 0.02) & (v < 0.98)).any() for v in watch.values[:end])
    assert watch.remaining[0] == 1.0 and watch.remaining[-1] == pytest.approx(report.remaining)
    assert all(a >= b for a, b in zip(watch.remaining, watch.remaining[1:], strict=False))
    # and it still learns and is tested as ever
    accuracy = trainer().validate(lit, loader(), verbose=False)[0]["val"]
    assert accuracy > 0.9


@pytest.mark.parametrize("target", [0.7, 0.25])
def test_other_targets_hold_too(target):
    pl.seed_everything(1)
    lit, pruning = Lit(), GDPCallback(target_flops=target)
    trainer(pruning, epochs=6).fit(lit, loader())
    assert target - 0.01 <= pruning.report.remaining <= target


def test_target_one_removes_nothing():
    lit, pruning = Lit(), GDPCallback(target_flops=1.0)
    trainer(pruning, epochs=2).fit(lit, loader())
    assert pruning.report.remaining == 1.0 and pruning.report.params_after == pruning.report.params_before


def test_dense_training_is_untouched_until_the_window_opens():
    """With a window that opens late, weights before it equal those of a run without gdp, bit for bit."""

    class Snapshot(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 7:  # the window opens with step 8
                self.weights = [p.detach().clone() for p in pl_module.parameters()]

    snapshots = []
    for pruned in (False, True):
        pl.seed_everything(3)
        snapshot, lit = Snapshot(), Lit()
        extra = [GDPCallback(0.5, method=gdp.Polar(start=0.5, end=0.9))] if pruned else []
        trainer(*extra, snapshot, epochs=4).fit(lit, loader(shuffle=True))
        snapshots.append(snapshot.weights)
    assert all(torch.equal(a, b) for a, b in zip(*snapshots, strict=True))


@pytest.mark.parametrize("make, kept", [(Direct, "stem.0"), (Late, "0.0"), (Nested, "net.backbone.0.0")])
def test_every_way_to_write_a_module(make, kept):
    pl.seed_everything(0)
    lit, pruning = make(), GDPCallback(target_flops=0.48)
    trainer(pruning, epochs=4).fit(lit, loader())
    assert 0.47 <= pruning.report.remaining <= 0.48
    assert kept.removeprefix("net.") in [name.removeprefix("net.") for name, *_ in pruning.report.groups]


def test_a_named_part_is_pruned_and_the_rest_keeps_its_size():
    lit, pruning = Nested(), GDPCallback(target_flops=0.5, module="net.backbone")
    trainer(pruning, epochs=4).fit(lit, loader())
    assert [name for name, *_ in pruning.report.groups] == ["0.0", "1.0"]
    assert lit.net["head"].in_features == 64 and lit.net["backbone"][0][0].out_channels < 8
    assert outputs(lit).shape == (64, 4)


def test_literals_are_found_before_training_and_left_alone():
    class WithLiteral(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Literal()

        def forward(self, x):
            return self.net(x).mean((2, 3))

    lit, pruning = WithLiteral(), GDPCallback(target_flops=0.6)
    trainer(pruning, epochs=2).fit(lit, loader())
    assert pruning.report.remaining <= 0.6 and lit.net.b[0].out_channels == 6
    assert any(f.name == "b.0" and "forward can't follow" in f.reason for f in pruning.report.frozen)


@pytest.mark.parametrize("form", ["list", "tuple", "dict", "nested"])
def test_example_from_the_first_batch(form):
    class Formed(Lit):
        def training_step(self, batch, batch_idx):
            x, y = {
                "list": lambda b: b,
                "tuple": lambda b: b[:2],
                "dict": lambda b: (b["image"], b["label"]),
                "nested": lambda b: (b[0]["pixels"], b[1]),
            }[form](batch)
            return self.loss(self(x), y)

    collate = {
        "list": lambda x, y: [x, y],
        "tuple": lambda x, y: (x, y, torch.ones(len(y))),
        "dict": lambda x, y: {"label": y, "image": x},
        "nested": lambda x, y: ({"pixels": x}, y),
    }[form]
    data = DataLoader(
        images(),
        16,
        collate_fn=lambda items: collate(torch.stack([i for i, _ in items]), torch.stack([k for _, k in items])),
    )
    lit, pruning = Formed(), GDPCallback(target_flops=0.5)
    trainer(pruning, epochs=2).fit(lit, data)
    assert 0.49 <= pruning.report.remaining <= 0.5
    assert pruning.report.flops_before == gdp.utils.count_flops(small_net(), torch.zeros(1, 3, 12, 12))


def test_example_input_array_is_preferred_and_no_batch_is_drawn_for_it():
    lit, pruning = Lit(), GDPCallback(target_flops=0.5)
    lit.example_input_array = torch.zeros(3, 3, 12, 12)
    trainer(pruning, epochs=2).fit(lit, loader())
    assert pruning.report.flops_before == 3 * gdp.utils.count_flops(small_net(), torch.zeros(1, 3, 12, 12))


def test_taking_an_example_leaves_the_run_as_it_was():
    """The batch for the trace and the dry run consume no random numbers: order of data and dropout stay the same."""

    class Order(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.seen = []

        def training_step(self, batch, batch_idx):
            self.seen.append(batch[0].sum().item() + torch.rand(1).item())
            return super().training_step(batch, batch_idx)

    seen = []
    for callbacks in ([], [GDPCallback(target_flops=0.5)]):
        pl.seed_everything(5)
        lit = Order()
        trainer(*callbacks, epochs=1).fit(lit, loader(shuffle=True))
        seen.append(lit.seen)
    assert seen[0] == seen[1]


def test_metrics_are_logged(tmp_path):
    lit, pruning = Lit(), GDPCallback(target_flops=0.5)
    run = trainer(pruning, epochs=4, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    run.fit(lit, loader())
    header, *rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert {"gdp/flops", "gdp/open_channels", "gdp/lambda"} <= set(header.split(",")) and len(rows) == 16
    assert {"gdp/flops", "gdp/open_channels", "gdp/lambda"} <= set(run.progress_bar_metrics)
    last = run.callback_metrics
    assert last["gdp/open_channels"] == sum(kept for _, kept, _ in pruning.report.groups)
    assert last["gdp/flops"] == pytest.approx(pruning.report.remaining)


def test_optimizers_and_schedulers_see_the_same_parameters_throughout():
    lit, pruning = Direct(), GDPCallback(target_flops=0.5)
    before = [id(p) for p in lit.parameters()]
    run = trainer(pruning, epochs=3)
    run.fit(lit, loader())
    assert [id(p) for p in lit.parameters()] == before
    optimizer = run.optimizers[0]
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == set(before)
    assert all(s["momentum_buffer"].shape == p.shape for p, s in optimizer.state.items())
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05 * 0.9**3] * 3)


SETTINGS = [
    {"accumulate_grad_batches": 3},
    {"gradient_clip_val": 0.1},
    {"precision": "bf16-mixed"},
    {"precision": "64-true"},
    {"fast_dev_run": 1},
    {"max_steps": 5},
    {"limit_train_batches": 2},
]


@pytest.mark.parametrize("kw", SETTINGS, ids=str)
def test_trainer_settings(kw):
    class AnyType(Lit):
        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0].to(self.dtype)), batch[1])

        def validation_step(self, batch, batch_idx): ...

    lit, pruning = AnyType(), GDPCallback(target_flops=0.5)
    trainer(pruning, **kw).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5


def test_training_that_stops_inside_the_window_still_meets_the_target():
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 10

    lit, pruning = Lit(), GDPCallback(target_flops=0.4)
    with pytest.warns(UserWarning, match="training ended after .* steps, before the window for pruning did"):
        trainer(pruning, Stop(), epochs=20, min_epochs=1).fit(lit, loader())
    assert 0.39 <= pruning.report.remaining <= 0.4


def test_a_run_without_steps_leaves_the_network_dense():
    lit, pruning = Lit(), GDPCallback(target_flops=0.4)
    keys = list(lit.state_dict())
    with pytest.warns(UserWarning, match="no training step was made"):
        trainer(pruning, epochs=1, limit_train_batches=0).fit(lit, loader())
    assert pruning.report is None and list(lit.state_dict()) == keys and lit.net[0][0].out_channels == 8


def test_a_second_fit_trains_the_small_network_on():
    lit, pruning = Lit(), GDPCallback(target_flops=0.5)
    trainer(pruning, epochs=2).fit(lit, loader())
    shapes, before = [p.shape for p in lit.parameters()], lit.net[0][0].weight.detach().clone()
    trainer(pruning, epochs=1).fit(lit, loader())
    assert [p.shape for p in lit.parameters()] == shapes and not torch.equal(lit.net[0][0].weight, before)


def test_the_same_callback_prunes_another_model():
    pruning = GDPCallback(target_flops=0.5)
    for _ in range(2):
        lit = Lit()
        trainer(pruning, epochs=2).fit(lit, loader())
        assert gdp.report.report_of(lit.net) is pruning.report and lit.net[1][0].out_channels < 16


@pytest.mark.slow
def test_resumed_equals_uninterrupted(tmp_path):
    def run(epochs_of_checkpoint=None, resume=None):
        pl.seed_everything(0)
        lit, pruning = Lit(), GDPCallback(target_flops=0.4)
        save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        # the data come in a fixed order, so that a resumed run sees what the uninterrupted one saw
        trainer(pruning, save, epochs=10, enable_checkpointing=True).fit(lit, loader(), ckpt_path=resume)
        return lit, pruning.report

    whole, report = run()
    checkpoints = {int(p.stem.split("=")[1].split("-")[0]): p for p in list(tmp_path.glob("epoch=*.ckpt"))}
    for epoch in (0, 3, 8):  # before, inside and after the window
        again, report_again = run(resume=checkpoints[epoch])
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
        assert report_again.plan == report.plan and report_again.flops_after == report.flops_after


def test_an_untrained_reader_freezes_what_it_reads():
    class Partly(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net[1][0].weight.requires_grad_(False)

    lit, pruning = Partly(), GDPCallback(target_flops=0.7)
    trainer(pruning, epochs=2).fit(lit, loader())
    assert [n for n, *_ in pruning.report.groups] == ["1.0", "2.0"]
    assert any("1.0.weight, which reads it, is not trained" in f.reason for f in pruning.report.frozen)


class Unused(Lit):
    def training_step(self, batch, batch_idx):
        raise AssertionError("no step may run")


@pytest.mark.parametrize(
    "kw, message",
    [
        ({"target_flops": 0.001}, r"out of reach(.|\n)*lowest target for this network is 0\.0"),
        ({"target_flops": 0.5, "module": "net.nope"}, r"Unused has no submodule 'net.nope'.*'net', 'net\.0'"),
        ({"target_flops": 0.5, "ignore": ["head*"]}, r"pattern 'head\*' matches no module"),
        (
            {"target_flops": 0.5, "ignore": [nn.Module]},
            r"No channel of this network can be pruned(.|\n)*ignored by 'Module'",
        ),
    ],
)
def test_refused_before_the_first_step(kw, message):
    lit = Unused()
    state = copy.deepcopy(lit.state_dict())
    with pytest.raises(gdp.GDPError, match=message):
        trainer(GDPCallback(**kw)).fit(lit, loader())
    assert state.keys() == lit.state_dict().keys() and "configure_model" not in lit.__dict__


def test_a_run_without_an_end_is_refused():
    lit = Unused()
    keys = list(lit.state_dict())
    with pytest.raises(gdp.GDPError, match=r"no end.*max_steps"):
        trainer(GDPCallback(target_flops=0.5), epochs=-1).fit(lit, loader())
    assert list(lit.state_dict()) == keys


def test_an_empty_loader_is_refused():
    with pytest.raises(gdp.GDPError, match="training loader is empty"):
        trainer(GDPCallback(target_flops=0.5)).fit(Unused(), loader(n=0))


def test_no_example_says_what_to_set():
    class Tokens(Unused):
        def forward(self, x):
            return super().forward(x.nope)

    with pytest.raises(
        gdp.GDPError, match=r"first training batch, a list of torch.float32 \(16, 3, 12, 12\).*example_input_array"
    ):
        trainer(GDPCallback(target_flops=0.5, module="")).fit(Tokens(), loader())


@refused(
    "After fit",
    "`trainer.test(ckpt_path=...)` of a checkpoint from before all channels were closed",
    "This checkpoint was written before the channels were cut…trainer.test(model, …",
)
def test_a_checkpoint_from_before_the_cut_is_refused_and_harms_nothing(tmp_path, refusal):
    lit, pruning = Lit(), GDPCallback(target_flops=0.5)
    run = trainer(pruning, ModelCheckpoint(tmp_path, save_top_k=-1), epochs=4, enable_checkpointing=True)
    run.fit(lit, loader())
    state = copy.deepcopy(lit.state_dict())
    early = next(tmp_path.glob("epoch=0*.ckpt"))
    for model in (lit, None):
        with refusal:
            run.validate(model, dataloaders=loader(), ckpt_path=early)
    assert all(torch.equal(v, lit.state_dict()[k]) for k, v in state.items())
    run.validate(lit, loader(), verbose=False)
    assert not lit._load_state_dict_pre_hooks and "on_load_checkpoint" not in lit.__dict__


def test_a_run_resumed_at_its_end_still_meets_the_target(tmp_path):
    def fit(target=0.5, epochs=2, resume=None):
        pruning = GDPCallback(target_flops=target)
        save = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer(pruning, save, epochs=epochs, enable_checkpointing=True).fit(Lit(), loader(), ckpt_path=resume)
        return pruning.report

    fit(epochs=6)
    inside = next(tmp_path.glob("epoch=1*.ckpt"))
    with pytest.warns(UserWarning, match="training ended after 8 steps, before the window"):
        assert 0.49 <= fit(epochs=2, resume=inside).remaining <= 0.5
    with pytest.raises(gdp.GDPError, match=r"on its way to target_flops=0\.5, but this run asks for 0\.7"):
        fit(target=0.7, epochs=6, resume=inside)


def test_ignore_takes_names_of_the_lightning_module_too():
    for name in ("net.1.0", "1.0"):
        lit, pruning = Lit(), GDPCallback(target_flops=0.9, ignore=[name])
        trainer(pruning, epochs=1).fit(lit, loader())
        assert [n for n, *_ in pruning.report.groups] == ["2.0"]


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_target_holds_for_fvcores_count_where_an_operator_is_unknown():
    class Einsum(Lit):
        def forward(self, x):
            y = torch.einsum("bchw,bchv->bwv", x, x)
            return self.net(x) + y.mean((1, 2))[:, None]

    lit, pruning = Einsum(), gdp.GDPCallback(target_flops=0.5, module="")
    before = gdp.utils.count_flops(Einsum(), X[:1])
    assert before > gdp.trace(Einsum(), X[:1], dry_run=False).flops.dense
    trainer(pruning, epochs=2).fit(lit, loader())
    after = gdp.utils.count_flops(lit, X[:1])
    assert 0.49 <= after / before <= 0.5 and after == pruning.report.flops_predicted


@pytest.mark.slow
def test_the_callback_lets_blocks_go_only_if_allowed():
    lowest = gdp.check(LitWithBlocks().net, torch.randn(1, 3, 12, 12)).remaining
    torch.manual_seed(0)
    pruning = gdp.GDPCallback(target_flops=0.9 * lowest, blocks=True)
    trainer(pruning, epochs=6).fit(lit := LitWithBlocks(), loader())
    report = pruning.report
    assert report.blocks and report.remaining <= 0.9 * lowest and report.max_rel < 1e-5
    trainer(epochs=1).fit(lit, loader())
    with pytest.raises(gdp.GDPError, match="out of reach"):
        trainer(gdp.GDPCallback(target_flops=0.9 * lowest)).fit(LitWithBlocks(), loader())
    pruning = gdp.GDPCallback(target_flops=1.2 * lowest)
    trainer(pruning, epochs=6).fit(LitWithBlocks(), loader())
    assert not pruning.report.blocks and all(kept for _, kept, _ in pruning.report.groups)


def test_a_fit_leaves_the_level_of_fvcores_logger():
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    before = logger.level
    logger.setLevel(17)
    try:
        trainer(GDPCallback(0.5), epochs=2).fit(Lit(), loader())
        assert logger.level == 17
    finally:
        logger.setLevel(before)
