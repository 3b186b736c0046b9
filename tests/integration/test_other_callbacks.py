"""GDPCallback beside the callbacks that come with Lightning, before and after it in the list: both do their work."""

from __future__ import annotations

import gc
import inspect

import pytest
from helpers.training import images
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader, TensorDataset

AREA = "Other callbacks"


def same_batches() -> DataLoader:
    """A run that is resumed inside an epoch begins the epoch's data anew; here that makes no difference."""
    x, y = images(16).tensors
    return DataLoader(TensorDataset(x.repeat(4, 1, 1, 1), y.repeat(4)), 16)


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    """Lightning's finders collect garbage again and again, which takes its time with all of torch in memory."""
    gc.freeze()
    yield
    gc.unfreeze()


KINDS = {
    kind.__name__: kind
    for kind in [*vars(schedulers).values(), SWALR]
    if inspect.isclass(kind) and issubclass(kind, schedulers.LRScheduler) and not kind.__name__.endswith("LRScheduler")
}
