"""`zoo:mobilenet_small`: MobileNet v2 (Sandler et al., 2018) cut down to 32x32 images."""

import torch
from torch import nn

from autoslim.models._base import ZOO
from autoslim.models._blocks import InvertedResidual, check_arguments, conv_norm, initialise_, scale_channels

_STEM, _HEAD = 24, 256
_STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (4, 24, 2, 2),
    (4, 32, 3, 2),
    (4, 64, 2, 1),
    (4, 96, 2, 2),
)


class MobileNetSmall(nn.Module):
    """Stem, ten inverted residual blocks in five stages, head: [N, C, 32, 32] -> [N, classes].

    At width 1 it takes 12.5M MACs on one 32x32 colour image and has 16 channel widths that can be set on their own.
    Any other image size works.
    """

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        channels = scale_channels(_STEM, width_mult)
        self.stem = nn.Sequential(*conv_norm(in_channels, channels, 3), nn.ReLU6())
        blocks: list[nn.Module] = []
        for expansion, base, count, first_stride in _STAGES:
            made = scale_channels(base, width_mult)
            for index in range(count):
                stride = 1 if index else first_stride
                blocks.append(InvertedResidual(channels, made, expansion=expansion, stride=stride, residual=index > 0))
                channels = made
        self.blocks = nn.Sequential(*blocks)
        last = scale_channels(_HEAD, width_mult)
        self.head = nn.Sequential(*conv_norm(channels, last), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.head(self.blocks(self.stem(x_NCHW)))).flatten(1))


def mobilenet_small(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> MobileNetSmall:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts times this, rounded to multiples of 8.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    check_arguments("mobilenet_small", num_classes=num_classes, in_channels=in_channels, width_mult=width_mult)
    model = MobileNetSmall(num_classes, in_channels, width_mult)
    initialise_(model)
    return model


ZOO.register("mobilenet_small", mobilenet_small)
