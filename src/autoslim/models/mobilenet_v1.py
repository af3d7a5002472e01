"""`zoo:mobilenet_v1`: thirteen depthwise-separable convolutions (Howard et al., 2017)."""

import torch
from torch import nn

from autoslim.models._base import ZOO
from autoslim.models._blocks import build_scaled, conv_norm, scale_channels

_STEM = 32
_BLOCKS = (  # channels, stride of the depthwise convolution
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)


class Separable(nn.Module):
    """Filter (depthwise 3x3), then mix (1x1): [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            *conv_norm(in_channels, in_channels, 3, stride=stride, groups=in_channels), nn.ReLU6()
        )
        self.pointwise = nn.Sequential(*conv_norm(in_channels, out_channels), nn.ReLU6())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nn.Module):
    """Stem, thirteen separable blocks, average pool, classifier: [N, C, 224, 224] -> [N, classes]."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        channels = scale_channels(_STEM, width_mult)
        self.stem = nn.Sequential(*conv_norm(in_channels, channels, 3, stride=2), nn.ReLU6())
        blocks: list[nn.Module] = []
        for base, stride in _BLOCKS:
            made = scale_channels(base, width_mult)
            blocks.append(Separable(channels, made, stride))
            channels = made
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x_NCHW))).flatten(1))


def mobilenet_v1(num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0) -> MobileNetV1:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts, the stem's too, times this, rounded to multiples of 8.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    return build_scaled(
        "mobilenet_v1", MobileNetV1, num_classes=num_classes, in_channels=in_channels, width_mult=width_mult
    )


ZOO.register("mobilenet_v1", mobilenet_v1)
