"""Small networks from a list of block names: every way channels are tied in real ones, in any order."""

from collections.abc import Callable, Sequence

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


class _Normed(nn.Module):
    """Statistics over channels: layer norm beside group norm."""

    def __init__(self, come: int, goes: int) -> None:
        super().__init__()
        self.conv, self.groups, self.layers = (
            nn.Conv2d(come, 2 * goes, 1),
            nn.GroupNorm(2, 2 * goes),
            nn.LayerNorm(come),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.groups(self.conv(normed))


class _Parts(nn.Module):
    """Unequal parts by numbers of its own, once as a split and once as slices."""

    def __init__(self, come: int, goes: int, how: str) -> None:
        super().__init__()
        self.how, self.cut, self.parts = how, 2, [2, goes]
        self.conv = _ConvBlock(come, goes + 2, 1)
        self.left, self.right = nn.Conv2d(2, goes, 3, padding=1), nn.Conv2d(goes, goes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        left, right = y.split(self.parts, 1) if self.how == "split" else (y[:, : self.cut], y[:, self.cut :])
        return self.left(left) + self.right(right)


class _Context(nn.Module):
    """Positions weighed by a softmax over the map (a matrix product of activations), spread over it again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mask, self.mix = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.mask(x).flatten(2).softmax(-1)
        pooled = torch.bmm(x.flatten(2), weights.transpose(1, 2))[..., None]
        return x + self.mix(pooled).expand_as(x)


class _Rearranged(nn.Module):
    """Pixels to channels and back, gated linear units, padding, constants, a roll and a flip of the map."""

    def __init__(self, come: int, goes: int) -> None:
        super().__init__()
        self.into, self.out, self.drop = _ConvBlock(come, 4 * goes, 1), nn.Conv2d(2 * goes, goes, 1), nn.Dropout2d(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.pixel_shuffle(self.drop(self.into(x)), 2).roll(1, 2).flip(3)
        y = functional.glu(functional.pixel_unshuffle(y, 2), 1)
        padded = functional.pad(y, (1, 1, 1, 1))[..., 1:-1, 1:-1]
        return self.out(padded * torch.ones_like(y))


def _make_grouped(come: int, goes: int) -> tuple[nn.Module, int]:
    groups = 4 if goes % 2 else 8
    widen, mix = _ConvBlock(come, groups * 3, 1), _ConvBlock(groups * 3, groups * 2, groups=groups)
    return nn.Sequential(widen, mix), groups * 2


_MAKE: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {  # channels in, and wished -> a block, channels out
    "conv": lambda come, goes: (_ConvBlock(come, goes), goes),
    "residual": lambda come, goes: (_Residual(come, goes + 2), come),
    "inverted": lambda come, goes: (_Inverted(come, goes + 2), come),
    "concat": lambda come, goes: (_Concat(come, goes), goes),
    "dense": lambda come, goes: (_Dense(come, goes), come + goes),
    "split": lambda come, goes: (_Split(come, goes), goes),
    "shuffle": lambda come, goes: (_Shuffle(come, goes, 2 if goes % 2 else 6), goes),
    "grouped": _make_grouped,
    "squeeze": lambda come, goes: (_SqueezeExcite(come, goes + 2), come),
    "pool": lambda come, goes: (nn.MaxPool2d(3, stride=1, padding=1), come),
    "transposed": lambda come, goes: (nn.ConvTranspose2d(come, goes, 3, padding=1), goes),
    "normed": lambda come, goes: (_Normed(come, goes), 2 * goes),
    "split by numbers": lambda come, goes: (_Parts(come, goes, "split"), goes),
    "sliced by numbers": lambda come, goes: (_Parts(come, goes, "sliced"), goes),
    "context": lambda come, goes: (_Context(come), come),
    "rearranged": lambda come, goes: (_Rearranged(come, goes), goes),
}
BLOCKS = tuple(_MAKE)


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
                layer, channels = _MAKE[name](channels, goes)
                layers.append(layer)
            self.body = nn.Sequential(*layers)
            self.flatten = flatten
            self.head = nn.Linear(channels * (9 if flatten else 1), 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        if self.flatten:
            return self.head(functional.max_pool2d(y, 2).flatten(1))
        return self.head(y.mean((2, 3)))
