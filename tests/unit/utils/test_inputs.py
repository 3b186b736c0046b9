"""An example is taken as forward takes it: by position, by name, as a list, or as one mapping."""

import pytest
import torch
from torch import nn

import gdp
from gdp.utils import arguments, as_inputs, count_flops

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def body(self, x):
        return self.b(self.a(x).relu())


class Plain(Two):
    def forward(self, x):
        return self.body(x)


class ByName(Two):
    def forward(self, *, image, scale=1.0, mask=None):
        return self.body(image if mask is None else image * mask) * scale


class Mixed(Two):
    def forward(self, x, y=None, *, flip=False, z):
        y = x if y is None else y
        return self.body((x + y - z).flip(-1) if flip else x + y - z)


class ListOfAll(Two):
    def forward(self, xs):
        return self.body(sum(xs))


class Batch(Two):
    def forward(self, batch):
        return self.body(batch["image"] + batch["noise"])


class Several(Two):
    def forward(self, *xs):
        return self.body(sum(xs))


class Labelled(Two):
    def forward(self, pixels, size=None, labels=None):
        return self.body(pixels) if labels is None else self.body(pixels) + labels


EXAMPLES = {
    "one": (Plain, X, (X,)),
    "list of one": (Plain, [X], (X,)),
    "tuple": (Mixed, (X, X, True, X), (X, X, True, X)),
    "by name": (ByName, {"image": X}, (X,)),
    "by name with a gap": (ByName, {"image": X, "mask": X}, (X, 1.0, X)),
    "mixed by name": (Mixed, {"x": X, "z": X}, (X, None, False, X)),
    "list": (ListOfAll, [X, X, X], ([X, X, X],)),
    "list in a tuple": (ListOfAll, ([X, X],), ([X, X],)),
    "mapping": (Batch, {"image": X, "noise": X}, ({"image": X, "noise": X},)),
    "any number": (Several, [X, X], (X, X)),
    "names of some": (Labelled, {"pixels": X, "labels": torch.ones(1)}, (X, None, torch.ones(1))),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return all(same(a[k], b[k]) for k in a) if isinstance(a, dict) else a == b


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_taken_as_forward_takes_it(name):
    torch.manual_seed(0)
    build, example, expected = EXAMPLES[name]
    net = build().eval()
    inputs = as_inputs(net, example)
    assert same(inputs, expected)
    args, kwargs = arguments(net, inputs)
    assert torch.isfinite(net(*args, **kwargs)).all()
    report = gdp.check(net, example)
    assert report.groups == (("a", 1, 8),) and report.flops_before == count_flops(net, example)
    gates = gdp.insert_gates(net, graph := gdp.trace(net, example))
    gates.close("a", [1, 2])
    assert gdp.remove(net, graph, gates).max_rel < 1e-5


def test_any_arguments_by_name_are_refused():
    class Anything(Two):
        def forward(self, x, **more):
            return self.body(x + more["y"])

    with pytest.raises(gdp.GDPError, match=r"itself fails on the example input.*KeyError"):
        gdp.trace(Anything(), {"x": X})
