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
    f"upsample_{kind}{n}d{exact}"
    for kind in ("nearest", "bilinear", "bicubic", "linear", "trilinear")
    for n in (1, 2, 3)
    for exact in ("", "_aa", "_vec")
] + ["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"]
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
    x, pad = call.args[0], call.args[1]
    labels: Labels = {}
    for dim, vector in call.labels(x).items():
        from_end = x.dim() - 1 - dim
        if any(pad[2 * from_end : 2 * from_end + 2]):
            call.pin(vector, "channels are padded by a fixed number")
        else:
            labels[dim] = vector
    return [labels]


def _example() -> tuple[nn.Module, torch.Tensor]:
    body = [nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.ReflectionPad2d(1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 8, 8)


def _pad_example() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 4, 2)), torch.randn(1, 3, 4, 4)


register("spatial", Rule(tuple(f"aten.{op}" for op in (*_POOLS, *_MAX_POOLS, *_RESAMPLES, *_PADS)), _run, _example))
register("pad", Rule(("aten.constant_pad_nd",), _pad, _pad_example))
