"""`zoo:mobilenet_v2_32` and `zoo:mobilenet_small`: MobileNet v2 (Sandler et al., 2018) for 32x32 pixels, and a cut."""

from functools import partial

import torch
from torch import nn

from autoslim.models._base import ZOO
from autoslim.models._blocks import InvertedResidual, build_scaled, conv_norm, scale_channels

Stages = tuple[tuple[int, int, int, int], ...]  # expansion, channels, blocks, stride of the first block

_SMALL: Stages = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 3, 2), (4, 64, 2, 1), (4, 96, 2, 2))
_V2: Stages = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class MobileNet32(nn.Module):
    """Stem, stages of inverted residual blocks, head: [N, C, 32, 32] -> [N, classes]. Any other image size works.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: Factor of all channel counts.
        stem: Channels of the first convolution, whose stride is 1.
        stages: The blocks.
        head: Channels of the last convolution.
    """

    def __init__(
        self, num_classes: int, in_channels: int, width_mult: float, *, stem: int, stages: Stages, head: int
    ) -> None:
        super().__init__()
        channels = scale_channels(stem, width_mult)
        self.stem = nn.Sequential(*conv_norm(in_channels, channels, 3), nn.ReLU6())
        blocks: list[nn.Module] = []
        for expansion, base, count, first_stride in stages:
            made = scale_channels(base, width_mult)
            for index in range(count):
                stride = 1 if index else first_stride
                blocks.append(InvertedResidual(channels, made, expansion=expansion, stride=stride, residual=index > 0))
                channels = made
        self.blocks = nn.Sequential(*blocks)
        last = scale_channels(head, width_mult)
        self.head = nn.Sequential(*conv_norm(channels, last), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.head(self.blocks(self.stem(x_NCHW)))).flatten(1))


def mobilenet_small(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> MobileNet32:
    """Ten blocks: 12.5M MACs on one 32x32 colour image, 16 channel widths that can be set on their own.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts times this, rounded to multiples of 8.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    network = partial(MobileNet32, stem=24, stages=_SMALL, head=256)
    return build_scaled(
        "mobilenet_small", network, num_classes=num_classes, in_channels=in_channels, width_mult=width_mult
    )


def mobilenet_v2_32(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> MobileNet32:
    """MobileNet v2 with stride 1 in the stem and the second stage: 88M MACs on one 32x32 colour image.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts times this, rounded to multiples of 8.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    network = partial(MobileNet32, stem=32, stages=_V2, head=1280)
    return build_scaled(
        "mobilenet_v2_32", network, num_classes=num_classes, in_channels=in_channels, width_mult=width_mult
    )


ZOO.register("mobilenet_small", mobilenet_small)
ZOO.register("mobilenet_v2_32", mobilenet_v2_32)
