"""The backbone of a real detection model, pruned while the whole detector trains."""

import pytest
import pytorch_lightning as pl
import torch
from helpers.training import trainer
from torch.utils.data import DataLoader
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, ssdlite320_mobilenet_v3_large

import gdp
from gdp.utils import count_flops

pytestmark = pytest.mark.slow


class Detector(pl.LightningModule):
    """As in torchvision's reference: no forward of its own, a list of images of any size, losses in a dict."""

    def __init__(self, build) -> None:
        super().__init__()
        self.model = build(weights=None, weights_backbone=None, num_classes=3)

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return sum(self.model(list(images), list(targets)).values())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-4)


def scenes() -> DataLoader:
    random = torch.Generator().manual_seed(0)
    boxes, labels = torch.tensor([[4.0, 4.0, 60.0, 50.0]]), torch.tensor([1])
    data = [
        (torch.rand(3, size, size + 8, generator=random), {"boxes": boxes, "labels": labels}) for size in (64, 72) * 4
    ]
    return DataLoader(data, batch_size=2, collate_fn=lambda samples: tuple(zip(*samples, strict=True)))


@pytest.mark.parametrize("build", [fasterrcnn_mobilenet_v3_large_320_fpn, ssdlite320_mobilenet_v3_large])
def test_the_backbone_of_a_detector_is_pruned_while_it_trains(build):
    torch.manual_seed(0)
    lit, pruning = Detector(build), gdp.GDPCallback(target_flops=0.6, module="backbone")
    outputs = [v.shape for v in lit.model.backbone.eval()(torch.randn(1, 3, 64, 64)).values()]
    trainer(pruning, epochs=2).fit(lit, scenes())
    report = pruning.report
    assert 0.59 <= report.remaining <= 0.6 and report.max_rel < 1e-5
    assert report.flops_after == report.flops_predicted
    assert [v.shape for v in lit.model.backbone.eval()(torch.randn(1, 3, 64, 64)).values()] == outputs
    assert {"boxes", "labels", "scores"} <= set(lit.model.eval()([torch.rand(3, 64, 80)])[0])
    trainer(epochs=1).fit(lit.train(), scenes())


def test_a_detector_as_a_whole_is_refused_with_the_line_and_the_way_out():
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    with pytest.raises(gdp.GDPError, match=r"torch.export can't follow SSD.forward.* at \w+\.py:\d+: .*module=\.\.\."):
        gdp.check(net, ([torch.rand(3, 64, 64)],))
    assert gdp.check(net.backbone, torch.rand(1, 3, 64, 64)).flops_before == count_flops(
        net.backbone, torch.rand(1, 3, 64, 64)
    )
