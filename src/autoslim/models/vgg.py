"""`zoo:vgg16_32`: VGG-16 with BatchNorm for 32x32 images, the usual network of papers on channel pruning.

Simonyan and Zisserman (2015), as Li et al. (2017) prune it: thirteen 3x3 convolutions, one linear layer.
"""

import torch
from torch import nn

from autoslim.models._base import ZOO
from autoslim.models._blocks import build_scaled, conv_norm, scale_channels

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; max-pooling between stages


class VGG32(nn.Module):
    """Five stages of 3x3 convolutions, average pool, classifier: [N, C, 32, 32] -> [N, classes]."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (base, depth) in enumerate(_STAGES):
            if stage:
                layers.append(nn.MaxPool2d(2))
            channels = scale_channels(base, width_mult)
            for _ in range(depth):
                layers += [*conv_norm(in_channels, channels, 3), nn.ReLU()]
                in_channels = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.features(x_NCHW)).flatten(1))


def vgg16_32(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> VGG32:
    """Builds the network, with Kaiming initialisation: 313M MACs at full width.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts times this, rounded to multiples of 8.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    return build_scaled("vgg16_32", VGG32, num_classes, in_channels, width_mult)


ZOO.register("vgg16_32", vgg16_32)
