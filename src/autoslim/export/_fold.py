"""BatchNorm folded into the convolution before it: in eval mode both are one affine map.

Which convolution a BatchNorm follows is seen by running the network once, whatever Python code calls them: its input is
the very tensor that a convolution gave, and nobody else reads that tensor.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Watch(TorchDispatchMode):
    """Notes who reads and makes each tensor; holds all of them, so that no two share an id."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []
        self.readers: defaultdict[int, list[tuple[Any, Any, Any]]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        read = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        self.held.append((args, kwargs, output))
        for each in read:
            self.readers[each].append((func, args, output))
        return output


def fold_batchnorm_(model: nn.Module, images: torch.Tensor) -> int:
    """Folds every BatchNorm that directly follows a convolution into it; returns how many.

    Args:
        model: In eval mode; its own convolutions get other weights and a bias, and an `Identity` takes the place of
            each BatchNorm (or what is left of it: timm's come with an activation).
        images: Any that it runs on.
    """
    pairs = _find_pairs(model, images)
    for conv, norm in pairs:
        _fold(conv, norm)
    after = {id(norm): _rest(norm) for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in after:
                setattr(parent, name, after[id(child)])
    return len(pairs)


def _find_pairs(model: nn.Module, images: torch.Tensor) -> list[tuple[_ConvNd, _BatchNorm]]:
    with torch.no_grad(), _Watch() as watch:
        model(images)
    norms = {id(m.running_mean): m for m in model.modules() if isinstance(m, _BatchNorm) and _rest(m) is not None}
    pairs: list[tuple[_ConvNd, _BatchNorm]] = []
    for conv in (m for m in model.modules() if isinstance(m, _ConvNd) and not m.transposed):
        uses = watch.readers[id(conv.weight)]
        if len(uses) != 1 or uses[0][0] is not torch.ops.aten.convolution.default or uses[0][1][1] is not conv.weight:
            continue  # called twice, or with weights that are standardised first
        readers = watch.readers[id(uses[0][2])]
        if len(readers) != 1 or readers[0][1][0] is not uses[0][2]:
            continue
        read = [norms[id(leaf)] for leaf in readers[0][1] if id(leaf) in norms]
        if read and len(watch.readers[id(read[0].running_mean)]) == 1:
            pairs.append((conv, read[0]))
    return pairs


def _fold(conv: _ConvNd, norm: _BatchNorm) -> None:
    """W' = W g, b' = (b - mean) g + beta, where g = gamma / sqrt(var + eps); in float64, then rounded once."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None  # it was found by them
    assert var is not None
    ones = torch.ones_like(mean)
    gamma, beta = (norm.weight, norm.bias) if norm.affine else (ones, 0 * ones)
    scale = gamma.detach().double() / (var.double() + norm.eps).sqrt()
    bias = conv.bias.detach().double() if conv.bias is not None else 0.0
    weight = conv.weight.detach().double() * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    shift = (bias - mean.double()) * scale + beta.detach().double()
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype))
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype))


def _rest(norm: _BatchNorm) -> nn.Module | None:
    """What stays of a BatchNorm that is folded: of torch's nothing, of timm's dropout and activation; None: unknown."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    if type(norm) in _PLAIN:
        return nn.Identity()
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    return nn.Sequential(drop, act) if isinstance(drop, nn.Module) and isinstance(act, nn.Module) else None
