"""Methods that act on weights do so in every type that these have, also where Lightning makes it torch's default."""

import pytest
import torch
from helpers.digits import LitDigits

import gdp
from gdp.pruning import forward_loss_added

NAMES = ["bwcp", "ffr", "ghfp", "hesso", "hspg", "oicsr", "polarization", "sfp", "sgl", "slimming"]


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
def kind(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_meets_its_target(name, kind):
    torch.manual_seed(0)
    net, x = LitDigits().net, torch.randn(8, 1, 8, 8)
    pruner = gdp.Pruner(net, gdp.trace(net, x[:1], dry_run=False), 0.5, 12, gdp.methods.get(name)())
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(12):
        optimizer.zero_grad()
        with forward_loss_added(pruner):
            net(x).square().mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()
        pruner.shrink([optimizer])
    assert pruner.done and pruner.remaining <= 0.5
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {kind}
