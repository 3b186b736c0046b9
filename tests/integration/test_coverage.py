"""A quarter of what `make coverage` runs: every family, its small members, at full size."""

import pytest

from benchmarks.coverage.measure import controlled, counted, exact, measure

pytestmark = pytest.mark.slow


TORCHVISION = """
alexnet convnext_tiny deeplabv3_mobilenet_v3_large densenet121 efficientnet_b0 efficientnet_v2_s
fcn_resnet50 googlenet inception_v3 lraspp_mobilenet_v3_large maxvit_t mnasnet0_5 mobilenet_v2
mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1
swin_t vgg11_bn vit_b_32
""".split()  # noqa: SIM905
TIMM = "coat_lite_tiny convit_tiny ghostnet_050 mobilenetv4_conv_small resnest14d".split()  # noqa: SIM905
DETECTION = ["fasterrcnn_mobilenet_v3_large_320_fpn"]

PRUNABLE = {"vit_b_32": 0.6, "swin_t": 0.6, "maxvit_t": 0.7, "convnext_tiny": 0.9}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    record = measure("torchvision", name)
    check(record)
    assert record["removable"] > PRUNABLE.get(name, 0.95)
    assert record["untrained"] == 0


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    check(measure("timm", name))


@pytest.mark.parametrize("name", DETECTION)
def test_backbone_of_detection_model(name):
    check(measure("detection", name))


def check(record):
    assert exact(record), record["error"]
    assert counted(record), (record["flops_predicted"], record["flops_cut"])
    assert controlled(record), (record["opened"], record["input"])
    assert 0 <= record["removable"] < 1
    assert not record["warnings"]
