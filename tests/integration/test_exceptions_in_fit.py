"""When something fails, the user's exception comes through, and the model can be finished, trained on or saved."""

import pytest
import torch
from helpers.features import works
from helpers.training import Lit, loader, small_net, trainer

import gdp
from gdp import GDPCallback

pytestmark = pytest.mark.slow


HOOKS = [
    "setup",
    "configure_model",
    "configure_optimizers",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "training_step",
    "on_before_optimizer_step",
    "validation_step",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "teardown",
]


class Trouble(Exception):
    pass


def failing(hook: str, step: int) -> type[Lit]:
    """A module whose hook fails, in training from that step on."""

    def fail(self, *args, **kw):
        if getattr(self._trainer, "global_step", 0) >= step and not self.trainer.sanity_checking:
            raise Trouble(hook)
        return getattr(Lit, hook)(self, *args, **kw)

    return type("Failing", (Lit,), {hook: fail})


@works("Failures", "an exception in any hook of the user's", "it comes through as it was")
@pytest.mark.parametrize("step", [0, 14])
@pytest.mark.parametrize("hook", HOOKS)
def test_the_exception_of_the_user_comes_through(hook, step):
    late = hook in ("on_train_end", "on_fit_end", "teardown")
    if step and hook in HOOKS[:5]:
        step = 0
    lit, pruning = failing(hook, step)(), GDPCallback(0.5)
    fresh = dict(lit.__dict__)
    keys = list(lit.state_dict())
    with pytest.raises(Trouble, match=hook):
        trainer(pruning, epochs=8).fit(lit, loader(), loader())
    assert {"setup", "configure_model", "on_load_checkpoint"}.isdisjoint(lit.__dict__.keys() - fresh.keys())
    if step == 0 and not late and hook not in ("on_train_epoch_end", "validation_step"):
        assert list(lit.state_dict()) == keys and pruning.pruner is None


@works("Failures", "an exception inside the window", "finish the network, train on, or fit again")
@pytest.mark.parametrize("way", ["epoch", "end", 3])
@pytest.mark.parametrize("then", ["finish", "train on", "fit again", "fit without gdp"])
def test_what_is_left_can_be_used(way, then, tmp_path):
    broken = failing("training_step", 14)
    lit, pruning = broken(), GDPCallback(0.5, shrink=way)
    with pytest.raises(Trouble):
        trainer(pruning, epochs=8).fit(lit, loader())
    pruner = pruning.pruner
    assert pruner is not None and pruner.gates.inserted
    lit.__class__ = Lit
    x = torch.randn(4, 3, 12, 12)
    if then in ("train on", "fit without gdp"):
        before = lit.net[0][0]._parameters["weight"].clone()
        if then == "train on":  # by hand, with the gates as they are
            optimizer = torch.optim.SGD(lit.parameters(), 0.05)
            torch.nn.functional.cross_entropy(lit.train()(x), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()
        else:
            trainer(epochs=1).fit(lit, loader())
        assert not torch.equal(before, lit.net[0][0]._parameters["weight"])
    if then == "fit again":
        trainer(pruning, epochs=8).fit(lit, loader())
        report = pruning.report
    else:
        pruner.finish()
        expected = lit.eval()(x)
        report = gdp.remove(lit.net, pruner.graph, pruner.gates)
        torch.testing.assert_close(lit.eval()(x), expected, rtol=1e-5, atol=1e-5)
    assert 0.49 <= report.remaining <= 0.5 and report.flops_after == report.flops_predicted
    assert not any(name.endswith("_gdp_gate") for name in lit.state_dict())
    gdp.save_pruned(lit.net, tmp_path / "small.pt")
    assert torch.equal(gdp.load_pruned(small_net(), tmp_path / "small.pt").eval()(x), lit.eval()(x))
