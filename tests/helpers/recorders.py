"""Callbacks that note what happens in a run."""

from pytorch_lightning.callbacks import Callback

from gdp import GDPCallback


class Gates(Callback):
    """The gates after every batch."""

    def __init__(self, pruning: GDPCallback) -> None:
        self.pruning, self.values, self.scales, self.types = pruning, [], [], set()

    def on_train_batch_end(self, trainer, pl_module, *_):
        if self.pruning.pruner is not None:
            self.values.append(self.pruning.pruner.gates.values.clone())
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self.scales.append(scaler.get_scale() if scaler else 1.0)
            self.types |= {b.dtype for n, b in pl_module.named_buffers() if n.endswith("_gdp_gate")}
            self.types |= {
                self.pruning.pruner.gates.gate_param.dtype,
                self.pruning.pruner.method_state["importance"].dtype,
            }


class Sizes(Callback):
    """Parameters of the network after every step, and which objects they are."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.objects = self.objects if self.sizes else [id(p) for p in pl_module.parameters()]
        self.sizes.append(sum(p.numel() for p in pl_module.parameters()))
