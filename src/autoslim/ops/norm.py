"""Batch normalisation: one scale, shift, mean and variance per channel."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoslim.ops._base import Attribute, Call, Labels, Rule, register

_OPS = ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")


def _run(call: Call) -> Sequence[Labels]:
    x = call.args[0]
    labels = call.labels(x)
    if x.shape[1] > 1:
        beside = [tensor for tensor in call.args[1:5] if isinstance(tensor, torch.Tensor)]
        channels = call.match(labels.get(1), *(call.labels(tensor).get(0) for tensor in beside))
        labels = {**labels, 1: channels} if channels is not None else labels
    statistics = {0: labels[1]} if 1 in labels else {}
    return [labels, *([statistics] * 4)]


def _attributes(module: nn.Module) -> tuple[Attribute, ...]:
    if not isinstance(module, _BatchNorm):
        return ()
    return (Attribute("num_features", "weight" if module.affine else "running_mean", 0),)


def _example() -> tuple[nn.Module, torch.Tensor]:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False))
    return nn.Sequential(body, nn.Conv2d(8, 2, 1)), torch.randn(2, 3, 8, 8)


register("batch_norm", Rule(tuple(f"aten.{op}" for op in _OPS), _run, _example, _attributes))
