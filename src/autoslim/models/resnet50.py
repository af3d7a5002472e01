"""`zoo:resnet50`: ResNet-50 (He et al., 2016) with the stride in the 3x3 convolution, whose every width scales.

At width 1 it is torchvision's, tensor by tensor and name by name; torchvision can't scale the blocks' outputs.
"""

import torch
from torch import nn

from autoslim.models._base import ZOO
from autoslim.models._blocks import build_scaled, scale_channels

_STEM, _EXPANSION = 64, 4
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner channels, blocks, stride of the first block


class Bottleneck(nn.Module):
    """Reduce (1x1), filter (3x3), expand (1x1), added to the input: [N, in, H, W] -> [N, 4 inner, H/stride, W/stride].

    The first block of a stage has a 1x1 convolution on its shortcut.
    """

    def __init__(self, in_channels: int, inner: int, *, stride: int, first: bool) -> None:
        super().__init__()
        out_channels = _EXPANSION * inner
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if first:
            self.downsample.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + self.downsample(x))


class ResNet50(nn.Module):
    """Stem, sixteen bottleneck blocks in four stages, average pool, classifier: [N, C, 224, 224] -> [N, classes]."""

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        channels = scale_channels(_STEM, width_mult)
        self.conv1 = nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, (base, count, first_stride) in enumerate(_STAGES, start=1):
            inner = scale_channels(base, width_mult)
            stage: list[nn.Module] = []
            for index in range(count):
                stride = 1 if index else first_stride
                stage.append(Bottleneck(channels, inner, stride=stride, first=index == 0))
                channels = _EXPANSION * inner
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet50(num_classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0) -> ResNet50:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts, the stem's and the blocks' outputs too, times this; inner ones rounded to
            multiples of 8, outputs four times that.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    return build_scaled("resnet50", ResNet50, num_classes, in_channels, width_mult)


ZOO.register("resnet50", resnet50)
