"""Parts that several networks of the zoo are made of."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from autoslim.errors import ModelError

_N = TypeVar("_N", bound=nn.Module)


def check_arguments(name: str, *, num_classes: int, in_channels: int, width_mult: float) -> None:
    """Raises ModelError unless there are classes, channels and a width."""
    if min(num_classes, in_channels) < 1 or not width_mult > 0:
        raise ModelError(
            f"{name}: num_classes={num_classes}, in_channels={in_channels}, width_mult={width_mult}; expected "
            "1 or more classes and channels, and a width above 0. Raise the one that is less."
        )


def scale_channels(channels: int, width_mult: float, *, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels` x `width_mult`, at least one, never more than 10% below.

    >>> scale_channels(24, 1.5), scale_channels(40, 1.5), scale_channels(16, 0.75)
    (40, 64, 16)
    """
    wanted = channels * width_mult
    nearest = max(int(wanted + divisor / 2) // divisor * divisor, divisor)
    return nearest + divisor if nearest < 0.9 * wanted else nearest


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution and BatchNorm, the image size kept but for the stride."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise), project (1x1); added to the input if `residual`.

    [N, in, H, W] -> [N, out, H/stride, W/stride]. At expansion 1 there is no 1x1 convolution before the depthwise one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, stride: int, residual: bool, kernel: int = 3
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [*conv_norm(in_channels, hidden), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*conv_norm(hidden, hidden, kernel, stride=stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *conv_norm(hidden, out_channels))
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def initialise_(model: nn.Module) -> None:
    """Kaiming initialisation of convolutions, small normal weights for linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def build_scaled(
    name: str, network: Callable[[int, int, float], _N], num_classes: int, in_channels: int, width_mult: float
) -> _N:
    """The network of these classes, channels and widths, with Kaiming initialisation; ModelError if there is none."""
    check_arguments(name, num_classes=num_classes, in_channels=in_channels, width_mult=width_mult)
    model = network(num_classes, in_channels, width_mult)
    initialise_(model)
    return model
