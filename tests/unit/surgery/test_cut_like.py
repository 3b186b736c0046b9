"""Copies that are cut as their network was."""

import copy
import io

import pytest
import torch
from helpers.networks import Chain, Residual
from helpers.pruned import X, pruned
from torch import nn

import gdp


class Holder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.head = net, nn.Flatten()

    def forward(self, x):
        return self.head(self.net(x))


@pytest.mark.parametrize(
    "form", [lambda net: net, Holder, nn.DataParallel, lambda net: torch.compile(net, backend="eager")]
)
def test_a_copy_gets_the_shapes_and_can_be_saved(form, tmp_path):
    dense = Residual()
    net = form(dense)
    mine = copy.deepcopy(dense)
    mine = Holder(mine) if isinstance(net, Holder) else mine
    pruned(dense)
    gdp.cut_like(mine, net)
    assert [p.shape for p in mine.parameters()] == [p.shape for p in net.parameters()]
    gdp.save_pruned(mine, tmp_path / "mine.pt")
    fresh = Holder(Residual()) if isinstance(net, Holder) else Residual()
    again = gdp.load_pruned(fresh, tmp_path / "mine.pt")
    assert torch.equal(again.eval()(X), mine.eval()(X))


def test_gates_of_the_copy_are_folded_first():
    net = Chain().eval()
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    gates.set(torch.where(torch.arange(len(gates.gate_param)) % 2 == 0, 0.0, 0.5))
    mine, expected = copy.deepcopy(net), net(X)
    del graph, gates
    mine = torch.load(saved(mine), weights_only=False)  # which nobody takes care of
    with pytest.raises(gdp.GDPError, match="found none"):
        gdp.cut_like(mine, net)
    graph_again, gates_again = gates_of(net)
    gdp.remove(net, graph_again, gates_again)
    gdp.cut_like(mine, net)
    torch.testing.assert_close(mine(X), expected)
    assert not any("gdp" in name for name in mine.state_dict())


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return file


def gates_of(net):
    mark = next(vars(m)["_gdp_mark"] for m in net.modules() if "_gdp_mark" in vars(m))
    return mark.owner().graph, mark.owner()


def test_what_does_not_fit_is_left_as_it_was():
    net = pruned(Chain())
    for other in (Residual(), copy.deepcopy(net)):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(gdp.GDPError, match=r"is no copy of the dense Chain, or it is cut already.*another"):
            gdp.cut_like(other, net)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    with pytest.raises(gdp.GDPError, match="Expected Chain to be or to hold a network that gdp pruned"):
        gdp.cut_like(Chain(), Chain())
