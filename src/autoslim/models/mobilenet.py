"""`zoo:mobilenet_small`: MobileNet v2 (Sandler et al., 2018) cut down to 32x32 images."""

import torch
from torch import nn

from autoslim.errors import ModelError
from autoslim.models._base import ZOO

_STEM, _HEAD, _DIVISOR = 24, 256, 8
_STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (4, 24, 2, 2),
    (4, 32, 3, 2),
    (4, 64, 2, 1),
    (4, 96, 2, 2),
)


def _conv(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and BatchNorm, the image size kept but for the stride."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise 3x3), project (1x1); added to the input where the shapes allow it.

    [N, in, H, W] -> [N, out, H/stride, W/stride]
    """

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [*_conv(in_channels, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv(hidden, hidden, 3, stride=stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *_conv(hidden, out_channels, 1))
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetSmall(nn.Module):
    """Stem, ten inverted residual blocks in five stages, head: [N, C, 32, 32] -> [N, classes].

    At width 1 it takes 12.5M MACs on one 32x32 colour image and has 16 channel widths that can be set on their own.
    Any other image size works.
    """

    def __init__(self, num_classes: int, in_channels: int, width_mult: float) -> None:
        super().__init__()
        channels = _scale(_STEM, width_mult)
        self.stem = nn.Sequential(*_conv(in_channels, channels, 3), nn.ReLU6())
        blocks: list[nn.Module] = []
        for expansion, base, count, first_stride in _STAGES:
            for stride in [first_stride] + [1] * (count - 1):
                made = _scale(base, width_mult)
                blocks.append(InvertedResidual(channels, made, expansion=expansion, stride=stride))
                channels = made
        self.blocks = nn.Sequential(*blocks)
        last = _scale(_HEAD, width_mult)
        self.head = nn.Sequential(*_conv(channels, last, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(self.head(self.blocks(self.stem(x_NCHW)))).flatten(1))


def _scale(channels: int, width_mult: float) -> int:
    """The multiple of 8 nearest to `channels` x `width_mult`, at least 8, and never more than 10% below."""
    wanted = channels * width_mult
    nearest = max(int(wanted + _DIVISOR / 2) // _DIVISOR * _DIVISOR, _DIVISOR)
    return nearest + _DIVISOR if nearest < 0.9 * wanted else nearest


def mobilenet_small(num_classes: int = 10, in_channels: int = 3, width_mult: float = 1.0) -> MobileNetSmall:
    """Builds the network, with Kaiming initialisation.

    Args:
        num_classes: Logits.
        in_channels: Channels of the images.
        width_mult: All channel counts times this, rounded to multiples of 8.

    Raises:
        ModelError: A number of classes or channels below 1, or a width of 0 or less.
    """
    if min(num_classes, in_channels) < 1 or not width_mult > 0:
        raise ModelError(
            f"mobilenet_small: num_classes={num_classes}, in_channels={in_channels}, width_mult={width_mult}; expected "
            "1 or more classes and channels, and a width above 0. Raise the one that is less."
        )
    model = MobileNetSmall(num_classes, in_channels, width_mult)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return model


ZOO.register("mobilenet_small", mobilenet_small)
