"""gdp in every precision that Lightning trains in."""

import pytest
import torch
from helpers.features import works
from helpers.recorders import Gates
from helpers.training import Lit, loader, trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins import MixedPrecision

import gdp
from gdp import GDPCallback


class AnyType(Lit):
    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0].to(self.dtype)).float(), batch[1])

    def validation_step(self, batch, batch_idx): ...


PRECISIONS = ["32-true", "bf16-mixed", "64-true", "bf16-true"]


@pytest.mark.parametrize("precision", [pytest.param(p, marks=works("Precision", f"`{p}`")) for p in PRECISIONS])
def test_gates_are_float32_and_the_target_holds(precision):
    lit, pruning = AnyType(), GDPCallback(target_flops=0.5)
    gates = Gates(pruning)
    trainer(pruning, gates, precision=precision).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5
    assert gates.types == {torch.float32} and len(gates.values) == 32
    assert lit.net[0][0].weight.dtype == {"64": torch.float64, "bf16-true": torch.bfloat16}.get(
        precision.removesuffix("-true") if precision == "64-true" else precision, torch.float32
    )


@pytest.mark.slow
@works("Precision", "`16-mixed` with a gradient scaler", "gates hold still at steps that the scaler skips")
@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skips_do_not_move_gates(fused):
    class Fused(AnyType):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9, fused=fused)

    # a scale that doubles at every step overflows again and again
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=1, growth_factor=8.0)
    lit, pruning = Fused(), GDPCallback(target_flops=0.5, shrink="end")
    gates = Gates(pruning)
    trainer(pruning, gates, epochs=30, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]).fit(lit, loader())
    assert 0.49 <= pruning.report.remaining <= 0.5 and gates.types == {torch.float32}
    skipped = [i for i in range(1, len(gates.scales)) if gates.scales[i] < gates.scales[i - 1]]
    inside = [i for i in skipped if 12 < i < 72]
    assert len(inside) > 10
    assert all(torch.equal(gates.values[i], gates.values[i - 1]) for i in inside)
    moved = [i for i in range(13, 72) if not torch.equal(gates.values[i], gates.values[i - 1])]
    assert len(moved) > 10


@works("Precision", "fused optimizers under a gradient scaler", "gradients are read without the scale")
def test_the_scale_of_gradients_does_not_change_the_importance():
    def importance(fused: bool):
        class Fused(AnyType):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.02, fused=fused)

        torch.manual_seed(0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        pruning = GDPCallback(0.5, method=gdp.Polar(start=0.9, end=1.0))
        seen = []

        class Look(Callback):
            def on_train_batch_end(self, *_):
                seen.append(pruning.pruner.method_state["importance"].clone())

        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        trainer(pruning, Look(), epochs=2, plugins=[plugin], limit_train_batches=3).fit(Fused(), loader())
        return seen[2]

    torch.testing.assert_close(importance(True), importance(False), rtol=1e-2, atol=1e-9)
