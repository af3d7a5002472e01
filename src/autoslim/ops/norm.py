"""Normalisation: one scale and shift per channel; statistics per channel (batch) or over channels (layer, group).

A weight's own (weight norm) has one scale for each channel that it makes, and a norm over those that it reads.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autoslim.ops._base import Call, Labels, Rule, register

_BATCH = "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"


def _batch(call: Call) -> Sequence[Labels]:
    x = call.args[0]
    labels = call.labels(x)
    if x.shape[1] > 1:
        beside = [tensor for tensor in call.args[1:5] if isinstance(tensor, torch.Tensor)]
        channels = call.match(labels.get(1), *(call.labels(tensor).get(0) for tensor in beside))
        labels = {dim: vector for dim, vector in {**labels, 1: channels}.items() if vector is not None}
    call.names(num_features=labels.get(1))
    if call.args[5] is True:  # statistics of this very tensor: of a standardised weight they run over its inputs
        for dim, vector in labels.items():
            if dim != 1:
                call.note(vector, "a mean and variance over channels")
    statistics = {0: labels[1]} if 1 in labels else {}
    return [labels, *([statistics] * 4)]


def _infer_batch(func: Any, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    x, *rest = args
    channels = x.shape[1]
    for tensor in rest[:4]:
        if isinstance(tensor, torch.Tensor) and tensor.shape != (channels,):
            raise RuntimeError(f"batch_norm: {channels} channels, but a weight or statistic of {tuple(tensor.shape)}")
    kept = channels if rest[4] is True else 0
    return torch.empty_like(x), x.new_empty(kept), x.new_empty(kept)


def _layer(call: Call) -> Sequence[Labels]:
    x, shape = call.args[0], call.args[1]
    labels = call.labels(x)
    first = x.dim() - len(shape)
    out = {dim: vector for dim, vector in labels.items() if dim < first}
    for dim in range(first, x.dim()):
        beside = [t for t in call.args[2:4] if isinstance(t, torch.Tensor)]
        if x.shape[dim] > 1:
            channels = call.match(labels.get(dim), *(call.labels(t).get(dim - first) for t in beside))
            call.note(channels, "a mean and variance over channels")
            if channels is not None:
                out[dim] = channels
    call.integers(shape, [out.get(dim) for dim in range(first, x.dim())])
    return [out, {}, {}]


def _group(call: Call) -> Sequence[Labels]:
    """Each group keeps the same slots, so that the number of groups stays; groups of one channel go as channels do."""
    x, groups = call.args[0], call.args[6]
    labels = call.labels(x)
    if x.shape[1] > 1:
        beside = [tensor for tensor in call.args[1:3] if isinstance(tensor, torch.Tensor)]
        channels = call.match(labels.get(1), *(call.labels(tensor).get(0) for tensor in beside))
        labels = {dim: vector for dim, vector in {**labels, 1: channels}.items() if vector is not None}
        call.names(num_channels=channels, num_groups=channels if groups == x.shape[1] else None)
        if groups == x.shape[1]:
            call.integers([groups], [channels])
        elif channels is not None:
            slots = channels.view(groups, -1)
            call.tie(slots, slots[:1])
            call.note(channels, "a mean and variance over channels")
            labels[1] = slots[:1].expand(groups, -1).reshape(-1)
    return [labels, {}, {}]


def _weight(call: Call) -> Sequence[Labels]:
    direction, scale, along = call.args[0], call.args[1], call.arg(2, "dim", 0)
    labels = call.labels(direction)
    for dim, vector in labels.items():
        if dim != along:
            call.note(vector, "a norm over channels")
    made = call.match(labels.get(along), call.labels(scale).get(along))
    norms = {} if made is None else {along: made}
    return [{**{dim: vector for dim, vector in labels.items() if dim != along}, **norms}, norms]


def _example() -> tuple[nn.Module, torch.Tensor]:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False))
    return nn.Sequential(body, nn.Conv2d(8, 2, 1)), torch.randn(2, 3, 8, 8)


def _layer_example() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 4)), torch.randn(2, 3, 5)


def _group_example() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)), torch.randn(2, 3, 4, 4)


def _weight_example() -> tuple[nn.Module, torch.Tensor]:
    first, second = weight_norm(nn.Conv2d(3, 8, 3)), weight_norm(nn.Conv2d(8, 6, 1))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(6, 2, 1)), torch.randn(2, 3, 4, 4)


register("batch_norm", Rule(tuple(f"aten.{op}" for op in _BATCH.split()), _batch, _example, _infer_batch))
register("layer_norm", Rule(("aten.native_layer_norm",), _layer, _layer_example))
register("group_norm", Rule(("aten.native_group_norm",), _group, _group_example))
register("weight_norm", Rule(("aten._weight_norm_interface",), _weight, _weight_example))
