"""`zoo:shufflenet_v1`: ShuffleNet v1 (Zhang et al., 2018) with three groups."""

import torch
from torch import nn
from torch.nn import functional

from autoslim.models._base import ZOO
from autoslim.models._blocks import build_scaled, conv_norm, scale_channels

_GROUPS, _STEM, _DIVISOR = 3, 24, 12  # a quarter of any width must be whole groups
_STAGES = ((240, 4), (480, 8), (960, 4))  # channels, blocks; the first block of each halves the image


class ShuffleBlock(nn.Module):
    """Reduce (1x1, grouped), shuffle, filter (depthwise 3x3), expand (1x1, grouped).

    Added to the input; the first block of a stage, with stride 2, puts its channels behind those of the averaged input.
    [N, in, H, W] -> [N, out, H/stride, W/stride]
    """

    def __init__(self, in_channels: int, out_channels: int, *, first: bool, groups: int) -> None:
        super().__init__()
        inner, stride = out_channels // 4, 2 if first else 1
        made = out_channels - in_channels if first else out_channels
        self.reduce = nn.Sequential(*conv_norm(in_channels, inner, groups=groups), nn.ReLU(inplace=True))
        self.filter = nn.Sequential(*conv_norm(inner, inner, 3, stride=stride, groups=inner))
        self.expand = nn.Sequential(*conv_norm(inner, made, groups=_GROUPS))
        self.pool = nn.AvgPool2d(3, 2, 1) if first else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.reduce(x)
        n, c, h, w = y.shape
        y = y.view(n, _GROUPS, c // _GROUPS, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.expand(self.filter(y))
        return functional.relu(x + y if self.pool is None else torch.cat([self.pool(x), y], 1))


class ShuffleNetV1(nn.Module):
    """Stem, sixteen shuffle blocks in three stages, average pool, classifier: [N, C, 224, 224] -> [N, classes]."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        channels = scale_channels(_STEM, width_mult, divisor=_DIVISOR)
        self.stem = nn.Sequential(*conv_norm(in_channels, channels, 3, stride=2), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2)
        blocks: list[nn.Module] = []
        for base, count in _STAGES:
            made = scale_channels(base, width_mult, divisor=_DIVISOR)
            for index in range(count):
                groups = _GROUPS if blocks else 1  # the stem's few channels are mixed whole
                blocks.append(ShuffleBlock(channels, made, first=index == 0, groups=groups))
                channels = made
        self.blocks = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.average(self.blocks(self.pool(self.stem(x_NCHW)))).flatten(1))


def shufflenet_v1(num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0) -> ShuffleNetV1:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts, the stem's too, times this, rounded to multiples of 12.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    return build_scaled(
        "shufflenet_v1", ShuffleNetV1, num_classes=num_classes, in_channels=in_channels, width_mult=width_mult
    )


ZOO.register("shufflenet_v1", shufflenet_v1)
