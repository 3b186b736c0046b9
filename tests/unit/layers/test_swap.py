import pytest
import torch
from helpers.layered import SmallResidual, with_holes
from helpers.networks import randomize
from torch import nn
from torch.nn.utils import parametrizations

import gdp
from gdp.layers import LinearConv2d, ShiftedConv2d, Swap, fold, linearize, prune_stripes, stripe

X = torch.randn(2, 3, 12, 12)


def net() -> nn.Module:
    return randomize(SmallResidual()).eval()


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def test_linearize_swaps_in_place_and_says_what_it_did():
    model = net()
    before = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    done = linearize(model)
    assert [s.name for s in done.swapped] == ["stem", "a", "b", "c"] and done.left == {}
    for swap in done.swapped:
        layer, conv = model.get_submodule(swap.name), before[swap.name]
        assert type(layer) is LinearConv2d and layer.training == conv.training
        assert swap.after == sum(p.numel() for p in layer.parameters()) < swap.before
        assert swap.difference == pytest.approx(worst_norm(layer.weight, conv.weight), rel=1e-4)
    assert (
        str(done).splitlines()[0] == f"stem: 216 -> 124 parameters, filters differ by {done.swapped[0].difference:.1%}"
    )
    with torch.no_grad():
        expected = model(X)
        assert [s.name for s in fold(model).swapped] == ["stem", "a", "b", "c"]
        assert worst(model(X), expected) < 1e-5
    assert {type(m) for name, m in model.named_modules() if name in before} == {nn.Conv2d}


def worst_norm(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def test_stripes_are_swapped_pruned_and_folded_without_a_difference():
    model = net()
    with torch.no_grad():
        expected = model(X)
        done = stripe(model)
        assert done.swapped[0] == Swap("stem", 216, 216 + 72, 0.0)
        assert torch.equal(model(X), expected)
        expected = with_holes(model)(X)
        model.a.skeleton.data = model.a.skeleton.data + 1  # one that lost no stripe
        expected = model(X)
        removed = prune_stripes(model)
        assert worst(model(X), expected) < 1e-5 and all(s.difference == 0 for s in removed.swapped)
        assert type(model.stem) is ShiftedConv2d and type(model.a) is nn.Conv2d
        fold(model)
        assert worst(model(X), expected) < 1e-5 and type(model.stem) is nn.Conv2d


class Odd(nn.Module):
    """Convs of every kind that is left alone, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.grouped = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.wide, self.single = nn.Conv2d(8, 64, 1), nn.Conv2d(8, 1, 3)
        self.own = type("Own", (nn.Conv2d,), {})(8, 8, 3)
        self.twice = self.again = nn.Conv2d(8, 8, 3)
        self.tied, self.other = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.other.weight = self.tied.weight
        self.hooked, self.normed = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.hooked.register_forward_hook(lambda *_: None)
        self.parametrized = parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
        self.broken = nn.Conv2d(8, 8, 3)
        self.broken.weight.data[0] = float("nan")
        self.up = nn.ConvTranspose2d(8, 8, 3)
        self.linear = LinearConv2d(8, 8, 3)


LEFT = {
    "grouped": "it has 2 groups",
    "single": "it has one filter",
    "wide": "it would not get smaller: 32 primary filters of 8 weights",
    "own": "it is a Own, which may compute in its own way",
    **dict.fromkeys(("twice", "again", "tied", "other"), "it, or a parameter of it, is used in several places"),
    "hooked": "it has hooks, which may use its weight",
    "parametrized": "it is a ParametrizedConv2d, which may compute in its own way",
    "broken": "its weights are not finite numbers",
    **dict.fromkeys(("linear.primary", "linear.coefficients"), "it is part of a LinearConv2d"),
}


def test_what_can_not_be_swapped_is_left_alone_with_the_reason():
    model = Odd()
    linear = model.linear
    done = linearize(model)
    assert [s.name for s in done.swapped] == ["plain", "normed"]
    assert done.left == LEFT and model.linear is linear
    striped = stripe(Odd())
    assert {s.name for s in striped.swapped} == {"plain", "normed", "single"}
    assert striped.left["wide"] == "its kernel has one position"


def test_frozen_convs_stay_frozen():
    model = net()
    model.a.requires_grad_(False)
    linearize(model)
    assert not any(p.requires_grad for p in model.a.parameters())
    assert all(p.requires_grad for p in model.b.parameters())


@pytest.mark.parametrize(
    "swap, model, sentence",
    [
        (linearize, nn.Sequential(nn.Linear(3, 4)), "Sequential has no nn.Conv2d that can be linearized."),
        (
            stripe,
            nn.Sequential(nn.Conv2d(3, 4, 1)),
            r"no nn.Conv2d that can be striped \(0: its kernel has one position",
        ),
        (linearize, nn.Conv2d(3, 8, 3), "a single Conv2d; put it into an nn.Sequential"),
        (linearize, [nn.Conv2d(3, 8, 3)], "Expected a network with layers to swap, but got list"),
        (prune_stripes, SmallResidual(), "no StripeConv2d"),
        (fold, SmallResidual(), "no layer of gdp.layers"),
    ],
)
def test_nothing_to_swap_is_refused(swap, model, sentence):
    with pytest.raises(gdp.GDPError, match=sentence):
        swap(model)


def test_a_wrong_ratio_and_gated_networks_are_refused_and_nothing_is_changed():
    model = net()
    with pytest.raises(gdp.GDPError, match="`ratio`"):
        linearize(model, 1.5)
    gates = gdp.insert_gates(model, gdp.trace(model, X, dry_run=False))
    with pytest.raises(gdp.GDPError, match="has gates already"):
        linearize(model)
    gates.withdraw()
    assert type(model.a) is nn.Conv2d
