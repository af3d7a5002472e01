"""Small networks from a list of block names: every way channels are tied in real ones, in any order."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class _ConvBlock(nn.Sequential):
    def __init__(self, come: int, goes: int, kernel: int = 3, groups: int = 1, *, relu: bool = True) -> None:
        conv = nn.Conv2d(come, goes, kernel, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(goes), nn.ReLU() if relu else nn.Identity())


class _Residual(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_ConvBlock(channels, inner, 1), _ConvBlock(inner, channels, relu=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


class _Inverted(nn.Module):
    """Expand, depthwise, project, add."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _ConvBlock(channels, inner, 1),
            _ConvBlock(inner, inner, groups=inner),
            _ConvBlock(inner, channels, 1, relu=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class _Concat(nn.Module):
    def __init__(self, come: int, goes: int) -> None:
        super().__init__()
        self.left, self.right = _ConvBlock(come, goes // 2), _ConvBlock(come, goes - goes // 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class _Dense(nn.Module):
    """Its input and what it adds, side by side."""

    def __init__(self, come: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(come), nn.Conv2d(come, growth, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class _Split(nn.Module):
    """Half of the channels gate the other half."""

    def __init__(self, come: int, goes: int) -> None:
        super().__init__()
        self.conv = _ConvBlock(come, 2 * goes, 1, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.conv(x).chunk(2, dim=1)
        return value * torch.sigmoid(gate)


class _Shuffle(nn.Module):
    """A grouped convolution and a channel shuffle, sizes read off the tensor."""

    def __init__(self, come: int, goes: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.widen = _ConvBlock(come, groups * 4, 1)
        self.mix = _ConvBlock(groups * 4, groups * 4, groups=groups)
        self.out = _ConvBlock(groups * 4, goes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mix(self.widen(x))
        n, c, h, w = y.shape
        return self.out(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(torch.relu(self.down(pooled))))


BLOCKS = (
    "conv",
    "residual",
    "inverted",
    "concat",
    "dense",
    "split",
    "shuffle",
    "grouped",
    "squeeze",
    "pool",
    "transposed",
)


def _make_block(name: str, come: int, goes: int) -> tuple[nn.Module, int]:
    inner = goes + 2
    if name == "conv":
        return _ConvBlock(come, goes), goes
    if name == "residual":
        return _Residual(come, inner), come
    if name == "inverted":
        return _Inverted(come, inner), come
    if name == "concat":
        return _Concat(come, goes), goes
    if name == "dense":
        return _Dense(come, goes), come + goes
    if name == "split":
        return _Split(come, goes), goes
    if name == "shuffle":
        return _Shuffle(come, goes, 2 if goes % 2 else 6), goes
    if name == "grouped":
        groups = 4 if goes % 2 else 8
        return nn.Sequential(
            _ConvBlock(come, groups * 3, 1), _ConvBlock(groups * 3, groups * 2, groups=groups)
        ), groups * 2
    if name == "squeeze":
        return _SqueezeExcite(come, inner), come
    if name == "pool":
        return nn.MaxPool2d(3, stride=1, padding=1), come
    if name == "transposed":
        return nn.ConvTranspose2d(come, goes, 3, padding=1), goes
    raise ValueError(f"no block {name!r}; the blocks are {', '.join(BLOCKS)}")


class RandomCNN(nn.Module):
    """A convolutional network of the named blocks.

    Args:
        blocks: (block name, output channels) in order; blocks that keep their input's channels ignore the number.
        flatten: Whether the classifier reads the flattened map instead of its mean.
        seed: Of the weights.

    The input is [N, 3, 6, 6], the output [N, 5].
    """

    def __init__(self, blocks: Sequence[tuple[str, int]], *, flatten: bool = False, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = 6
            layers: list[nn.Module] = [_ConvBlock(3, channels)]
            for name, goes in blocks:
                layer, channels = _make_block(name, channels, goes)
                layers.append(layer)
            self.body = nn.Sequential(*layers)
            self.flatten = flatten
            self.head = nn.Linear(channels * (9 if flatten else 1), 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if self.flatten:
            return self.head(functional.max_pool2d(y, 2).flatten(1))
        return self.head(y.mean((2, 3)))
