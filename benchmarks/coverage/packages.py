"""Networks of other packages, which torchvision and timm don't have: with random weights, without a download.

The packages stand in packages.txt. They are imported where a network is built: a run of the other suites needs none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # a network that wants to download something fails at once
os.environ["YOLO_OFFLINE"] = "True"

Build = Callable[[], nn.Module]


def _make(package: str, name: str, *args: Any, **options: Any) -> Build:
    """Return what makes a network.

    Args:
        package: the module to import the class from.
        name: of the class or function.
        args: its arguments.
        options: its keyword arguments.
    """
    return lambda: getattr(import_module(package), name)(*args, **options)


def _yolo(config: str, kind: str = "DetectionModel") -> Build:
    return _make("ultralytics.nn.tasks", kind, f"{config}.yaml", verbose=False)


def _smp(name: str, encoder: str) -> Build:
    return _make("segmentation_models_pytorch", name, encoder, encoder_weights=None, classes=3)


def _monai(name: str, **options: Any) -> Build:
    return _make("monai.networks.nets", name, **options)


def _hf(name: str, head: str = "ForImageClassification", **options: Any) -> Build:
    """Return what makes a network of transformers; its outputs are plain tensors where the configuration allows it.

    Args:
        name: of the configuration and of the network, as transformers spells it.
        head: the rest of the class's name.
        options: of the configuration.
    """

    def build() -> nn.Module:
        transformers = import_module("transformers")
        return getattr(transformers, name + head)(getattr(transformers, f"{name}Config")(**options))

    return build


def _spandrel(module: str, name: str, **options: Any) -> Build:
    return _make(f"spandrel.architectures.{module}", name, **options)


def _cv(name: str, **options: Any) -> Build:
    return _make("pytorchcv.model_provider", "get_model", name, pretrained=False, **options)


def _audio(name: str, **options: Any) -> Build:
    return _make("torchaudio.models", name, **options)


def _kornia(module: str, name: str, **options: Any) -> Build:
    return _make(f"kornia.{module}", name, **options)


def _detr(name: str, **options: Any) -> Build:
    """Return what makes a detector of transformers with transformers' own small ResNet as its backbone."""

    def build() -> nn.Module:
        transformers = import_module("transformers")
        backbone = transformers.ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2], layer_type="basic",
            out_features=["stage2", "stage3", "stage4"] if "RTDetr" in name else ["stage4"],
        )  # fmt: skip
        config = getattr(transformers, f"{name}Config")(backbone_config=backbone, **options)
        return getattr(transformers, f"{name}ForObjectDetection")(config)

    return build


UNET = {"in_channels": 1, "out_channels": 2, "channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
DYN = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
SMALL_DETR = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
VAE = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
DENOISER = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}

# package -> network -> (what makes it, the shape of one input)
PACKAGES: dict[str, dict[str, tuple[Build, tuple[int, ...]]]] = {
    "ultralytics": {
        "yolov8n": (_yolo("yolov8n"), (3, 320, 320)),
        "yolo11n": (_yolo("yolo11n"), (3, 320, 320)),
        "yolov5nu": (_yolo("yolov5n"), (3, 320, 320)),
        "yolov9t": (_yolo("yolov9t"), (3, 320, 320)),
        "yolov10n": (_yolo("yolov10n"), (3, 320, 320)),
        "yolo12n": (_yolo("yolo12n"), (3, 320, 320)),
        "yolo26n": (_yolo("yolo26n"), (3, 320, 320)),
        "yolov8n-pose": (_yolo("yolov8n-pose", "PoseModel"), (3, 320, 320)),
        "yolo11n-seg": (_yolo("yolo11n-seg", "SegmentationModel"), (3, 320, 320)),
        "yolo11n-cls": (_yolo("yolo11n-cls", "ClassificationModel"), (3, 224, 224)),
        "rtdetr-resnet50": (_yolo("rtdetr-resnet50", "RTDETRDetectionModel"), (3, 320, 320)),
    },
    "segmentation-models-pytorch": {
        "Unet-resnet18": (_smp("Unet", "resnet18"), (3, 224, 224)),
        "UnetPlusPlus-resnet18": (_smp("UnetPlusPlus", "resnet18"), (3, 224, 224)),
        "MAnet-resnet18": (_smp("MAnet", "resnet18"), (3, 224, 224)),
        "Linknet-mobilenet_v2": (_smp("Linknet", "mobilenet_v2"), (3, 224, 224)),
        "FPN-efficientnet-b0": (_smp("FPN", "efficientnet-b0"), (3, 224, 224)),
        "PSPNet-resnet18": (_smp("PSPNet", "resnet18"), (3, 224, 224)),
        "PAN-resnet18": (_smp("PAN", "resnet18"), (3, 224, 224)),
        "DeepLabV3Plus-mobilenet_v2": (_smp("DeepLabV3Plus", "mobilenet_v2"), (3, 224, 224)),
        "Segformer-mit_b0": (_smp("Segformer", "mit_b0"), (3, 224, 224)),
        "UPerNet-resnet18": (_smp("UPerNet", "resnet18"), (3, 224, 224)),
    },
    "monai": {
        "UNet-3d": (_monai("UNet", spatial_dims=3, num_res_units=2, **UNET), (1, 48, 48, 48)),
        "BasicUNet-3d": (_monai("BasicUNet", spatial_dims=3, in_channels=1, out_channels=2), (1, 32, 32, 32)),
        "AttentionUnet-2d": (_monai("AttentionUnet", spatial_dims=2, **UNET), (1, 128, 128)),
        "SegResNet-3d": (_monai("SegResNet", spatial_dims=3, init_filters=8), (1, 32, 32, 32)),
        "DynUNet-2d": (_monai("DynUNet", spatial_dims=2, in_channels=1, out_channels=2, **DYN), (1, 128, 128)),
        "FlexibleUNet-2d": (
            _monai("FlexibleUNet", in_channels=3, out_channels=2, backbone="efficientnet-b0"),
            (3, 128, 128),
        ),
        "Quicknat": (_monai("Quicknat", num_classes=4, num_filters=32), (1, 64, 64)),
        "VNet-2d": (_monai("VNet", spatial_dims=2), (1, 64, 64)),
        "HighResNet-3d": (_monai("HighResNet", out_channels=2), (1, 24, 24, 24)),
        "DenseNet121-2d": (_monai("DenseNet121", spatial_dims=2, in_channels=1, out_channels=2), (1, 128, 128)),
    },
    "transformers": {
        "ResNet": (_hf("ResNet"), (3, 224, 224)),
        "RegNet": (_hf("RegNet", hidden_sizes=[32, 64, 160, 384], depths=[1, 2, 4, 2], groups_width=16), (3, 224, 224)),
        "MobileNetV2": (_hf("MobileNetV2"), (3, 224, 224)),
        "ConvNextV2": (_hf("ConvNextV2", hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2]), (3, 224, 224)),
        "EfficientNet": (
            _hf("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
            (3, 224, 224),
        ),
        "MobileViT": (_hf("MobileViT"), (3, 256, 256)),
        "Levit": (_hf("Levit"), (3, 224, 224)),
        "PoolFormer": (_hf("PoolFormer"), (3, 224, 224)),
        "Segformer": (_hf("Segformer", "ForSemanticSegmentation"), (3, 224, 224)),
        "Detr": (_detr("Detr", **SMALL_DETR), (3, 224, 224)),
        "RTDetrV2": (_detr("RTDetrV2"), (3, 320, 320)),
    },
    "diffusers": {
        "AutoencoderKL": (_make("diffusers", "AutoencoderKL", **VAE), (3, 64, 64)),
        "VQModel": (_make("diffusers", "VQModel", **VAE), (3, 64, 64)),
        "AutoencoderTiny": (_make("diffusers", "AutoencoderTiny"), (3, 128, 128)),
        "UNet2DModel": (_make("diffusers", "UNet2DModel", **DENOISER), (3, 32, 32)),
    },
    "spandrel": {
        "RRDBNet": (_spandrel("ESRGAN.__arch.RRDB", "RRDBNet", num_blocks=4, num_filters=32), (3, 32, 32)),
        "SRVGGNetCompact": (_spandrel("Compact.__arch.SRVGG", "SRVGGNetCompact"), (3, 64, 64)),
        "NAFNet": (
            _spandrel("NAFNet", "NAFNet", width=16, middle_blk_num=1, enc_blk_nums=[1, 1, 2], dec_blk_nums=[1, 1, 1]),
            (3, 64, 64),
        ),
        "RCAN": (_spandrel("RCAN", "RCAN", n_resgroups=2, n_resblocks=4), (3, 48, 48)),
        "SPAN": (_spandrel("SPAN", "SPAN", num_in_ch=3, num_out_ch=3), (3, 48, 48)),
        "DnCNN": (_spandrel("DnCNN", "DnCNN"), (1, 64, 64)),
        "SwinIR": (
            _spandrel(
                "SwinIR",
                "SwinIR",
                embed_dim=60,
                depths=[2, 2],
                num_heads=[6, 6],
                window_size=8,
                upscale=2,
                upsampler="pixelshuffle",
            ),
            (3, 48, 48),
        ),
    },
    "pytorchcv": {
        "bam_resnet18": (_cv("bam_resnet18"), (3, 224, 224)),
        "cbam_resnet18": (_cv("cbam_resnet18"), (3, 224, 224)),
        "preresnet18": (_cv("preresnet18"), (3, 224, 224)),
        "shufflenetv2b_w1": (_cv("shufflenetv2b_w1"), (3, 224, 224)),
        "sknet50": (_cv("sknet50"), (3, 224, 224)),
        "darknet53": (_cv("darknet53"), (3, 224, 224)),
        "espnetv2_wd2": (_cv("espnetv2_wd2"), (3, 224, 224)),
        "lwopenpose2d_mobilenet_cmupan_coco": (_cv("lwopenpose2d_mobilenet_cmupan_coco"), (3, 192, 192)),
        "bisenet_resnet18_celebamaskhq": (_cv("bisenet_resnet18_celebamaskhq", in_size=(224, 224)), (3, 224, 224)),
        "fastscnn_cityscapes": (_cv("fastscnn_cityscapes", in_size=(256, 256)), (3, 256, 256)),
    },
    "torchaudio": {
        "Wav2Letter": (_audio("Wav2Letter", input_type="mfcc", num_features=13), (13, 400)),
        "ConvTasNet": (_audio("ConvTasNet", enc_num_feats=128, msk_num_feats=64, msk_num_hidden_feats=128), (1, 8000)),
        "HDemucs": (_audio("HDemucs", sources=["drums", "other"], channels=16), (2, 16384)),
    },
    "kornia": {
        "HardNet": (_kornia("feature", "HardNet", pretrained=False), (1, 32, 32)),
        "DISK": (_kornia("feature", "DISK"), (3, 64, 64)),
        "RRDBNet": (_kornia("models", "RRDBNet", num_in_ch=3, num_out_ch=3, num_block=3), (3, 32, 32)),
    },
}


def build_packaged(name: str) -> tuple[nn.Module, tuple[int, ...], tuple[Tensor, ...]]:
    """Make a network of another package.

    Args:
        name: as `packaged_names` has it.

    Returns:
        The network, the shape of its first input, and the inputs that come after it.
    """
    own = name.partition(".")[2]
    build, shape = PACKAGES[package_of(name)][own]
    return build(), shape, (torch.tensor(10),) if own == "UNet2DModel" else ()


def packaged_names() -> list[str]:
    """Return the names of all networks: package, dot, network."""
    return [f"{package}.{name}" for package, networks in PACKAGES.items() for name in networks]


def package_of(name: str) -> str:
    """Return the package that a network is from, as the package index calls it.

    Args:
        name: one of `packaged_names`.
    """
    return name.partition(".")[0]
