"""Operators over the map, channel by channel: pooling, resampling, padding."""

import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.ops._base import Call, Labels, Rule, register

_POOLS = [f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg", "_adaptive_avg", "adaptive_max") for n in (1, 2, 3)]
_MAX_POOLS = [f"max_pool{n}d_with_indices" for n in (2, 3)]
_RESAMPLES = [
    *(f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *(f"{exact}{n}d" for exact in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
]
_PADS = [f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)]


def _run(call: Call) -> Sequence[Labels]:
    name = str(call.func.overloadpacket)
    match = re.search(r"(\d)d", name)
    spatial = int(match.group(1)) if match else 2
    x = call.args[0]
    labels: Labels = {}
    for dim, vector in call.labels(x).items():
        if dim >= x.dim() - spatial:
            call.pin(vector, f"{name} runs along its channels")
        else:
            labels[dim] = vector
    outs = [leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]
    if "avg_pool" in name:
        call.average_pool(outs[0], labels)
    return [labels] * len(outs)


def _pad(call: Call) -> Sequence[Labels]:
    """Padded slots become whatever they meet; how many they are is the code's."""
    x, pad = call.args[0], call.args[1]
    labels: Labels = {}
    for dim, vector in call.labels(x).items():
        before, after = pad[2 * (x.dim() - 1 - dim) :][:2] or (0, 0)
        if min(before, after) < 0:
            call.pin(vector, "channels are cut off by a negative padding")
        parts = [call.ledger.new(n) if n else None for n in (before, after)]
        call.integers([before, after], parts)
        labels[dim] = torch.cat([part for part in (parts[0], vector, parts[1]) if part is not None])
    return [labels]


def _unpool(call: Call) -> Sequence[Labels]:
    """Values go back to the places that a pooling took them from, channel by channel, so both have the same ones."""
    name, x, places = str(call.func.overloadpacket), call.args[0], call.arg(1, "indices")
    spatial = int(name[-2])
    out: Labels = {}
    for dim, sides in enumerate((call.labels(x).get(dim), call.labels(places).get(dim)) for dim in range(x.dim())):
        if dim >= x.dim() - spatial:
            for vector in sides:
                call.pin(vector, f"{name} runs along its channels")
        elif x.shape[dim] > 1 and (both := call.match(*sides)) is not None:
            out[dim] = both
    return [out]


def _shuffle(call: Call) -> Sequence[Labels]:
    """[N, C k, ...] -> [N, C, H, W]: the k channels of one output channel stay or go together (pixel_shuffle, col2im).

    Those of pixel_shuffle become a patch of the map, those of col2im are added where patches overlap.
    """
    labels = call.labels(call.args[0])
    if 1 in labels:
        slots = labels[1].view(call.out.shape[1], -1)
        call.tie(slots, slots[:, :1])
        labels = {**labels, 1: slots[:, 0]}
    return [_drop_map(call, labels)]


def _mix(call: Call) -> Sequence[Labels]:
    """Channels of `groups` groups take turns: the same slots go in each, so that the number of groups stays."""
    labels, groups = call.labels(call.args[0]), call.arg(1, "groups")
    if 1 in labels:
        slots = labels[1].view(groups, -1)
        call.tie(slots, slots[:1])
        labels = {**labels, 1: slots[0].repeat_interleave(groups)}
    return [labels]


def _unshuffle(call: Call) -> Sequence[Labels]:
    """[N, C, H, W] -> [N, C k, ...]: each channel becomes k of them, side by side (pixel_unshuffle, im2col)."""
    labels = call.labels(call.args[0])
    if 1 in labels:
        labels = {**labels, 1: labels[1].repeat_interleave(call.out.shape[1] // call.args[0].shape[1])}
    return [_drop_map(call, labels)]


def _sample(call: Call) -> Sequence[Labels]:
    """Reads off a map at given places, channel by channel: [N, C, ...] -> [M, C, ...]."""
    return [_drop_map(call, call.labels(call.args[0]))]


def _drop_map(call: Call, labels: Labels) -> Labels:
    for dim, vector in labels.items():
        if dim != 1:
            call.pin(vector, f"{call.func.overloadpacket} rearranges its channels")
    return {dim: vector for dim, vector in labels.items() if dim == 1}


def _example() -> tuple[nn.Module, torch.Tensor]:
    body = [nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.ReflectionPad2d(1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)]
    body += [nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*body, nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 8, 8)


def _pad_example() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 4, 2)), torch.randn(1, 3, 4, 4)


def _shuffle_example(layer: nn.Module, channels: int) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(channels, 4, 1)), torch.randn(1, 3, 4, 4)


class _Fold(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.fold(nn.functional.unfold(x, 2), x.shape[2:], 2)


class _Unpool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, places = nn.functional.max_pool2d(self.conv(x), 2, return_indices=True)
        return self.head(nn.functional.max_unpool2d(self.mid(y), places, [2, 2]))


class _Sample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        where = torch.tanh(x[:, :2].permute(0, 2, 3, 1))
        return self.head(nn.functional.grid_sample(self.conv(x), where, align_corners=False))


def _sample_example() -> tuple[nn.Module, torch.Tensor]:
    return _Sample(), torch.randn(1, 3, 4, 4)


register("spatial", Rule(tuple(f"aten.{op}" for op in (*_POOLS, *_MAX_POOLS, *_RESAMPLES, *_PADS)), _run, _example))
register(
    "unpool", Rule(("aten.max_unpool2d", "aten.max_unpool3d"), _unpool, lambda: (_Unpool(), torch.randn(1, 3, 4, 4)))
)
register("pad", Rule(("aten.constant_pad_nd",), _pad, _pad_example))
register("shuffle", Rule(("aten.pixel_shuffle",), _shuffle, lambda: _shuffle_example(nn.PixelShuffle(2), 2)))
register("fold", Rule(("aten.col2im",), _shuffle, lambda: _shuffle_example(_Fold(), 8)))
register("mix", Rule(("aten.channel_shuffle",), _mix, lambda: _shuffle_example(nn.ChannelShuffle(2), 8)))
register(
    "unshuffle",
    Rule(("aten.pixel_unshuffle", "aten.im2col"), _unshuffle, lambda: _shuffle_example(nn.PixelUnshuffle(2), 32)),
)
register("sample", Rule(("aten.grid_sampler_2d", "torchvision.roi_align"), _sample, _sample_example))
