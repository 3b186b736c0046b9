"""Penalties are what they would be as a part of the loss; factors act after steps, in averages too."""

import copy

import pytest
import torch
from helpers.training import small_net
from helpers.weight_methods import Factored, Penalised, by_hand
from torch.optim.swa_utils import AveragedModel

import gdp

X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def pruned(method, steps=20, **options):
    torch.manual_seed(0)
    net = small_net()
    return net, gdp.Pruner(net, gdp.trace(net, X[:1], dry_run=False), 0.5, steps, method, **options)


def loss_of(net):
    return net(X).square().mean()


def assert_alike(net, other):
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unscaled", [True, False])
def test_under_a_gradient_scaler_the_penalty_is_what_it_is_as_a_part_of_the_loss(unscaled):
    """Read after `unscale_`, or before, with the scale, as fused optimizers ask for."""
    found = []
    for method in (Penalised(), Penalised(strength=0.0)):
        net, pruner = pruned(method)
        optimizer, scaler = torch.optim.SGD(net.parameters(), 0.05), torch.amp.GradScaler("cpu", init_scale=1024.0)
        for _ in range(20):
            optimizer.zero_grad()
            loss = loss_of(net) + (0 if method.strength or pruner.done else by_hand(net))
            scaler.scale(loss).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            pruner.watch(loss, scale=1.0 if unscaled else scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
            pruner.step()
            pruner.shrink([optimizer])
        assert pruner.done
        found.append(net)
    assert_alike(*found)


def test_optimizers_that_split_the_network_get_the_penalty_once_each():
    found = []
    for method in (Penalised(), Penalised(strength=0.0)):
        net, pruner = pruned(method)
        norms = [p for p in net.parameters() if p.dim() == 1]
        optimizers = [torch.optim.SGD(ps, 0.05) for ps in ([p for p in net.parameters() if p.dim() > 1], norms)]
        for _ in range(5):
            net.zero_grad()
            (loss_of(net) + (0 if method.strength else by_hand(net))).backward()
            for optimizer in optimizers:
                pruner.watch(trained={id(p) for p in optimizer.param_groups[0]["params"]})
                optimizer.step()
            pruner.step()
        found.append(net)
    assert_alike(*found)


def test_gradients_of_gates_are_not_read_for_an_optimizer_without_gated_weights():
    net, pruner = pruned(gdp.Polar())
    loss_of(net).backward()
    pruner.watch(trained={id(net[0][1].weight)})
    assert pruner.last_gradient_step == -1
    pruner.watch(trained={id(net[1][0].weight)})
    assert pruner.last_gradient_step == 0 and pruner.method_state["importance"].max() > 0


def test_gradients_stay_the_same_objects_in_the_same_layout():
    """DistributedDataParallel may have them as views of its buckets."""
    net, pruner = pruned(Penalised())
    net.to(memory_format=torch.channels_last)
    loss_of(net).backward()
    weight = net[0][0].weight
    grad, place, before = weight.grad, weight.grad.data_ptr(), weight.grad.clone()
    pruner.watch()
    assert weight.grad is grad and grad.data_ptr() == place
    assert grad.is_contiguous(memory_format=torch.channels_last) and not torch.equal(grad, before)
    (hand,) = torch.autograd.grad(by_hand(net), weight)
    torch.testing.assert_close(grad, before + hand)


def test_parameters_without_a_gradient_get_the_penalty_s_and_frozen_ones_none():
    net, pruner = pruned(Penalised())
    net[1].requires_grad_(False)
    pruner.watch()
    torch.testing.assert_close(net[0][1].weight.grad, torch.full((8,), 0.02))
    assert all(p.grad is None for p in net[1].parameters())
    net.requires_grad_(False)
    pruner.watch()
    pruner.watch(trained={id(p) for p in net.parameters()})


def test_weights_of_sixteen_bits_are_penalised_in_their_type():
    net, pruner = pruned(Penalised())
    net.bfloat16()
    pruner.watch()
    for module in net[:3]:
        expected = 0.02 * torch.nn.functional.normalize(module[0].weight.detach().float().flatten(1))
        assert module[0].weight.grad.dtype == torch.bfloat16
        torch.testing.assert_close(module[0].weight.grad.float().flatten(1), expected, rtol=0.01, atol=1e-3)


def test_factors_act_after_every_step_until_the_window_ends_but_not_after_bad_ones():
    net, pruner = pruned(Factored(start=0.25, end=0.5))
    weight, found = net[0][0].weight, []
    for step in range(1, 13):
        weight.data.fill_(1.0)
        pruner.watch(torch.tensor(float("nan") if step == 6 else 1.0))
        with pytest.warns(UserWarning, match="step 6 is not finite") if step == 9 else torch.no_grad():
            pruner.step(skipped=step == 3)
        assert bool((weight == weight[0, 0, 0, 0]).all())
        found.append(weight[0, 0, 0, 0].item())
    assert pruner.window[:3] == (5, 9, 10)
    assert found == [0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert (net[0][1].weight == 1).all() and (net[-1].weight != 0).any()  # other roles are left alone


def test_factors_leave_frozen_parameters_as_they_are():
    net, pruner = pruned(Factored())
    net[0][0].weight.requires_grad_(False)
    frozen, trained = (net[i][0].weight.detach().clone() for i in (0, 1))
    pruner.step()
    assert torch.equal(net[0][0].weight, frozen) and torch.equal(net[1][0].weight, trained / 2)


def test_averages_follow_what_factors_do():
    net, pruner = pruned(Factored(factor=0.0))
    average = AveragedModel(net)
    pruner.gates.track_copy(average.module)
    before = net[0][0].weight.detach().clone()
    average.update_parameters(net)
    for _ in range(3):
        pruner.step()
        average.update_parameters(net)
    assert net[0][0].weight.abs().max() == 0
    torch.testing.assert_close(average.module[0][0].weight, before / 4)


def test_a_loaded_pruner_goes_on_with_penalty_and_factors():
    def train(net, pruner, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(net).backward()
            pruner.watch()
            optimizer.step()
            pruner.step()

    method = Factored(strength=0.02, factor=0.99)
    net, pruner = pruned(method)
    train(net, pruner, torch.optim.SGD(net.parameters(), 0.05), 6)
    other, again = pruned(method)
    other.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(pruner.state_dict()))
    again.resume()
    for model, run in ((net, pruner), (other, again)):
        train(model, run, torch.optim.SGD(model.parameters(), 0.05), 10)
    assert pruner.done and all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
