"""`zoo:resnet_digits`: a residual network (He et al., 2016) for 8x8 grey digits."""

import torch
from torch import nn

from autoslim.errors import ModelError
from autoslim.models._base import ZOO


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the input: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNetDigits(nn.Module):
    """A stem and three residual blocks of `width`, 2 `width` and 4 `width` channels: [N, C, 8, 8] -> [N, classes].

    At the default width 0.76M MACs on one 8x8 image; any other image size works.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = ResidualBlock(width, width, 1)
        self.stage2 = ResidualBlock(width, 2 * width, 2)
        self.stage3 = ResidualBlock(2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x_NCHW)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(self.pool(x).flatten(1))


def resnet_digits(num_classes: int = 10, in_channels: int = 1, width: int = 16) -> ResNetDigits:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width: Channels of the first stage.

    Raises:
        ModelError: A number below 1.
    """
    if min(num_classes, in_channels, width) < 1:
        raise ModelError(
            f"resnet_digits: num_classes={num_classes}, in_channels={in_channels}, width={width}; expected 1 or more "
            "of each. Raise the one that is less."
        )
    model = ResNetDigits(num_classes, in_channels, width)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


ZOO.register("resnet_digits", resnet_digits)
