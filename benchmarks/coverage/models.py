"""Build the networks of the coverage run, and fill them with random numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from benchmarks.coverage.packages import build_packaged, packaged_names
from gdp.utils import NORM, Inputs

SUITES = ("torchvision", "detection", "timm", "packages")

TIMM = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_lite_tiny coatnet_pico_rw_224 convit_tiny
convmixer_768_32 convnext_atto convnextv2_atto cpubone_nano crossvit_9_240 cspdarknet53 cspresnet50 darknet17 davit_tiny
deit_tiny_patch16_224 densenetblur121d dla34 dla46x_c dpn68b eca_vovnet39b ecaresnet26t edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_lite0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_dw
eva02_small_patch14_224 fasternet_t0 fastvit_t8 fbnetc_100 focalnet_tiny_srf gcvit_xxtiny gernet_s ghostnet_050
ghostnetv2_100 ghostnetv3_050 gmlp_ti16_224 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224
hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v3 inception_v4 iformer_t lambda_resnet26t lcnet_050
lcnetv2_small legacy_seresnet18 levit_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 mixer_s32_224
mnasnet_small mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0
mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 nf_resnet50 nfnet_l0
pit_ti_224 poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 regnetz_005 repghostnet_050
repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet10t resnet18 resnetv2_18 resnetv2_50x1_bit resnext50_32x4d
rexnet_100 selecsls42 semnasnet_075 sequencer2d_s seresnet18 shvit_s1 skresnet18 starnet_s1 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tf_efficientnet_b0 tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e
tnt_s_patch16_224 tresnet_m twins_svt_small vgg11_bn visformer_tiny vit_tiny_patch16_224 volo_d1_224 vovnet39a
xception41 xcit_nano_12_p16_224
legacy_senet154 nasnetalarge pnasnet5large
""".split()  # noqa: SIM905

SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}
DETECTION_SIZES = {"ssd300_vgg16": 300}  # all others: 320


def names(which: str) -> list[str]:
    """Return the names of the models of one suite, those with few FLOPs first where torchvision says how many.

    Args:
        which: one of SUITES.
    """
    if which == "packages":
        return packaged_names()
    if which == "timm":
        return TIMM
    if which == "detection":
        return tv.list_models(module=tv.detection)

    def flops(name: str) -> float:
        return tv.get_model_weights(name).DEFAULT.meta["_ops"] / (5 if name in segmentation else 1)

    segmentation = tv.list_models(module=tv.segmentation)
    return sorted([*tv.list_models(module=tv), *segmentation], key=flops)


@contextmanager
def _quick_init() -> Iterator[None]:
    """Draw plain normal numbers where a truncated normal distribution is asked for; `prepare` draws anew anyway."""
    slow = nn.init.trunc_normal_
    nn.init.trunc_normal_ = lambda t, mean=0.0, std=1.0, *_, **__: nn.init.normal_(t, mean, std)
    try:
        yield
    finally:
        nn.init.trunc_normal_ = slow


def build(which: str, name: str) -> tuple[nn.Module, Inputs]:
    """Make a model with random weights, with its auxiliary heads where it has some, and inputs of its default size.

    Args:
        which: one of SUITES.
        name: one of its `names`.
    """
    torch.manual_seed(0)
    rest: Inputs = ()
    with _quick_init(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if which == "packages":
            net, shape, rest = build_packaged(name)
        elif which == "timm":
            import timm

            net = timm.create_model(name, pretrained=False)
            shape = net.pretrained_cfg["input_size"]
        elif which == "detection":
            net = tv.get_model(name, weights=None, weights_backbone=None).backbone
            size = DETECTION_SIZES.get(name, 320)
            shape = (3, size, size)
        else:
            options: dict[str, Any] = {"weights": None}
            if name in ("googlenet", "inception_v3"):
                options |= {"aux_logits": True, "init_weights": False}
            if name in tv.list_models(module=tv.segmentation):
                options["weights_backbone"] = None
            net = tv.get_model(name, **options)
            size = 299 if name == "inception_v3" else 224
            shape = (3, size, size)
    return net.eval(), (torch.randn(1, *shape, generator=torch.Generator().manual_seed(1)), *rest)


def heads(net: nn.Module) -> list[nn.Module]:
    """Return the layers that make class scores: what a user of Torch-Pruning would pass as `ignored_layers`.

    Args:
        net: with the classes of ImageNet, or those of COCO's segmentation.
    """
    classes = {1000, 21}
    return [
        m
        for m in net.modules()
        if (isinstance(m, nn.Linear) and m.out_features in classes)
        or (isinstance(m, nn.Conv2d) and m.out_channels in classes)
    ]


def prepare(net: nn.Module, inputs: Inputs) -> None:
    """Put random numbers everywhere, so that every channel and the input matter: weights, scales, BN statistics.

    Weights keep the size of what passes through them. Constants (scales of 1e-6, heads of zeros), and what batch norms
    scale and shift by, become random numbers. BN statistics are those of a random batch, layer by layer, moved by a
    random third: deep networks then neither explode nor fade, and a batch norm is as far from the identity as in a
    trained network.

    Args:
        net: changed in place; weights that are not trained stay.
        inputs: decide the shape of the batch that statistics are taken of.
    """
    random = torch.Generator().manual_seed(3)
    layers = {p: m for m in net.modules() for p in m.parameters(recurse=False) if p.requires_grad}
    with torch.no_grad():
        # weights and scales
        for p, layer in layers.items():
            if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) and p.dim() > 1:
                fan_in = p[0].numel() if not getattr(layer, "transposed", False) else p.numel() // p.shape[1]
                p.normal_(0, math.sqrt((2 if p.dim() > 2 else 1) / fan_in), generator=random)
            elif isinstance(layer, NORM) or bool((p == p.flatten()[0]).all()):
                if p is getattr(layer, "bias", None):
                    p.normal_(0, 0.3, generator=random)
                else:
                    p.uniform_(0.5, 1.5, generator=random)

        # BN statistics, of a batch that goes through the network layer by layer
        def calibrate(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            dims = [0, *range(2, args[0].dim())]
            mean, var = args[0].mean(dims), args[0].var(dims, unbiased=False)
            var = var.clamp_min(0.1 * float(var.mean()) + 1e-6)
            moved = mean + 0.3 * var.sqrt() * torch.randn(mean.shape, generator=random).to(mean)
            module.running_mean.copy_(moved)
            module.running_var.copy_(var * (0.7 + 0.6 * torch.rand(var.shape, generator=random).to(var)))

        norms = [m for m in net.modules() if getattr(m, "running_mean", None) is not None]
        hooks = [m.register_forward_pre_hook(calibrate) for m in norms]
        try:
            run_training_heads(net, other_inputs(inputs, 4, batch=2))
        finally:
            for hook in hooks:
                hook.remove()


def run_training_heads(net: nn.Module, inputs: Inputs) -> None:
    """Run the network with only containers in train mode: auxiliary heads run, norms and dropout stay in eval mode.

    Args:
        net: it is left in eval mode.
        inputs: a batch.
    """
    net.eval()
    norms = [m for m in net.modules() if hasattr(m, "running_mean")]
    containers = [m for m in net.modules() if next(m.children(), None) is not None and m not in norms]
    for m in containers:
        m.training = True
    try:
        net(*inputs)
    finally:
        net.eval()


def other_inputs(inputs: Inputs, seed: int, batch: int = 1) -> Inputs:
    """Make random pictures: a colour, large shapes and noise. To a mean over space, all plain noise is the same.

    Args:
        inputs: the first decides channels, size (of a line, a picture or a volume) and type; the others stay.
        seed: of the random numbers.
        batch: how many pictures.
    """
    x, *rest = inputs
    channels, *size = x.shape[1:]
    random = torch.Generator().manual_seed(seed)
    colour = 2 * torch.randn(batch, channels, *[1] * len(size), generator=random)
    coarse = torch.randn(batch, channels, *[5] * len(size), generator=random)
    shapes = F.interpolate(coarse, size, mode=SMOOTH[len(size)], align_corners=True)
    return (colour + shapes + 0.5 * torch.randn(batch, *x.shape[1:], generator=random)).to(x), *rest
