"""Networks with layers of gdp.layers are saved, and loaded into what their constructor builds."""

from collections.abc import Callable

import pytest
import torch
from helpers.layered import SmallResidual, with_holes
from helpers.networks import randomize
from helpers.pruned import X, pruned
from torch import nn

import gdp
from gdp.layers import LinearConv2d, ShiftedConv2d, StripeConv2d, fold, linearize, prune_stripes, stripe

Step = Callable[[nn.Module], object]


def holes(net: nn.Module) -> None:
    """Take every other filter of a stem out of the skeleton, and the right column of all of b."""
    for layer in net.modules():
        if isinstance(layer, StripeConv2d):
            layer.skeleton.data[::2, 0] = 0
            layer.skeleton.data[:, :, 2] = 0


ROWS: dict[str, tuple[Step, ...]] = {
    "linearized": (linearize,),
    "striped": (stripe, with_holes),
    "stripes removed": (stripe, with_holes, prune_stripes),
    "linearized, then pruned": (linearize, pruned),
    "linearized, pruned, folded": (linearize, pruned, fold),
    "pruned, then linearized": (pruned, linearize),
    "striped, then pruned": (stripe, pruned),
    "striped, pruned, stripes removed": (stripe, pruned, holes, prune_stripes),
    "stripes removed, then pruned": (stripe, holes, prune_stripes, pruned),
    "pruned, striped, stripes removed": (pruned, stripe, holes, prune_stripes),
    "pruned twice": (linearize, pruned, pruned),
}


def kinds(net: nn.Module) -> list[type]:
    return [type(module) for module in net.modules()]


@pytest.mark.parametrize("steps", ROWS.values(), ids=ROWS)
def test_the_file_and_the_dense_constructor_are_enough(steps, tmp_path):
    net = randomize(SmallResidual()).eval()
    for step in steps:
        step(net)
    gdp.save_pruned(net, tmp_path / "small.pt")
    again = gdp.load_pruned(SmallResidual(), tmp_path / "small.pt").eval()
    assert kinds(again) == kinds(net)
    with torch.no_grad():
        assert torch.equal(again(X), net(X))
    assert str(gdp.report.report_of(again)) == str(gdp.report.report_of(net))
    gdp.save_pruned(again, tmp_path / "twice.pt")
    assert torch.equal(gdp.load_pruned(SmallResidual(), tmp_path / "twice.pt").eval()(X), net(X))


def test_a_constructor_that_swaps_by_itself_will_do_as_well(tmp_path):
    def build() -> nn.Module:
        net = randomize(SmallResidual()).eval()
        linearize(net)
        return net

    net = pruned(build())
    gdp.save_pruned(net, tmp_path / "small.pt")
    assert torch.equal(gdp.load_pruned(build(), tmp_path / "small.pt")(X), net(X))


def test_layers_beside_the_pruned_network_are_rebuilt_too(tmp_path):
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.beside = SmallResidual(), nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

        def forward(self, x):
            return self.net(x), self.beside(x)

    holder = Holder().eval()
    linearize(holder)
    pruned(holder.net)
    gdp.save_pruned(holder, tmp_path / "small.pt")
    again = gdp.load_pruned(Holder(), tmp_path / "small.pt").eval()
    assert kinds(again) == kinds(holder)
    assert all(torch.equal(a, b) for a, b in zip(again(X), holder(X), strict=True))


@pytest.mark.parametrize("first, second", [(linearize, fold), (None, linearize), (None, stripe)])
def test_a_layer_that_was_cut_swapped_and_cut_again_is_refused(first, second, tmp_path):
    net = randomize(SmallResidual()).eval()
    if first is not None:
        first(net)
    pruned(net)
    second(net)
    pruned(net)
    with pytest.raises(gdp.GDPError, match=r"was cut, swapped for another layer, and cut again; .* by hand"):
        gdp.save_pruned(net, tmp_path / "small.pt")
    assert not list(tmp_path.iterdir())


def test_another_network_is_refused_and_left_as_it_was(tmp_path):
    net = randomize(SmallResidual()).eval()
    linearize(net)
    gdp.save_pruned(pruned(net), tmp_path / "small.pt")
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    with pytest.raises(gdp.GDPError, match="Expected a conv 'stem' in Sequential"):
        gdp.load_pruned(other, tmp_path / "small.pt")
    wider = SmallResidual()
    wider.head = nn.Linear(16, 5)
    was = kinds(wider), {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(gdp.GDPError, match=r"head\.weight"):
        gdp.load_pruned(wider, tmp_path / "small.pt")
    assert kinds(wider) == was[0]
    assert all(torch.equal(tensor, was[1][name]) for name, tensor in wider.state_dict().items())


SPECS = [
    ["linear"],
    ["linear", 8],
    ["linear", "many"],
    ["shifted", []],
    ["shifted", [[3, 0, 2]]],
    ["shifted", [[0, 0, -1]]],
    ["shifted", [[0, 0, 9]]],
    ["shifted", 7],
    ["other"],
    [],
    None,
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_description_that_is_none_is_refused(spec, tmp_path):
    net = randomize(SmallResidual()).eval()
    linearize(net)
    gdp.save_pruned(net, tmp_path / "small.pt")
    content = torch.load(tmp_path / "small.pt", weights_only=True)
    assert content["layers"] == [{}, {name: ["linear", n] for name, n in {"stem": 4, "a": 6, "b": 4, "c": 8}.items()}]
    content["layers"][1]["stem"] = spec
    torch.save(content, tmp_path / "small.pt")
    fresh = SmallResidual()
    with pytest.raises(gdp.GDPError, match="Expected"):
        gdp.load_pruned(fresh, tmp_path / "small.pt")
    assert not any(isinstance(m, LinearConv2d | ShiftedConv2d) for m in fresh.modules())


def test_something_else_in_the_place_of_descriptions_is_refused(tmp_path):
    net = randomize(SmallResidual()).eval()
    linearize(net)
    gdp.save_pruned(net, tmp_path / "small.pt")
    content = torch.load(tmp_path / "small.pt", weights_only=True)
    for layers in (None, [{}], {}, [[], []]):
        torch.save(content | {"layers": layers}, tmp_path / "small.pt")
        with pytest.raises(gdp.GDPError, match="something else where it should describe layers"):
            gdp.load_pruned(SmallResidual(), tmp_path / "small.pt")
