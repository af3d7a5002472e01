"""`zoo:mnasnet`: MNasNet-B1 (Tan et al., 2019), whose every width scales.

torchvision's keeps 1280 channels in the last convolution at any width; here they grow above width 1, as the paper's do.
"""

import torch
from torch import nn

from autoslim.models._base import ZOO
from autoslim.models._blocks import InvertedResidual, build_scaled, conv_norm, scale_channels

_STEM, _LAST = 32, 1280
_STAGES = (  # expansion, channels, blocks, stride of the first block, kernel
    (1, 16, 1, 1, 3),
    (3, 24, 3, 2, 3),
    (3, 40, 3, 2, 5),
    (6, 80, 3, 2, 5),
    (6, 96, 2, 1, 3),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class MNasNet(nn.Module):
    """Stem, seventeen inverted residual blocks, head, average pool, classifier: [N, C, 224, 224] -> [N, classes]."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        channels = scale_channels(_STEM, width_mult)
        self.stem = nn.Sequential(*conv_norm(in_channels, channels, 3, stride=2), nn.ReLU6())
        blocks: list[nn.Module] = []
        for expansion, base, count, first_stride, kernel in _STAGES:
            made = scale_channels(base, width_mult)
            for index in range(count):
                stride, residual = (1, True) if index else (first_stride, False)
                blocks.append(
                    InvertedResidual(
                        channels, made, expansion=expansion, stride=stride, residual=residual, kernel=kernel
                    )
                )
                channels = made
        self.blocks = nn.Sequential(*blocks)
        last = scale_channels(_LAST, max(width_mult, 1.0))
        self.head = nn.Sequential(*conv_norm(channels, last), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.head(self.blocks(self.stem(x_NCHW)))).flatten(1))


def mnasnet(num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0) -> MNasNet:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts times this, rounded to multiples of 8; the last convolution's only above 1.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    return build_scaled("mnasnet", MNasNet, num_classes, in_channels, width_mult)


ZOO.register("mnasnet", mnasnet)
