"""Tensors of constants: they belong to nobody, and become whatever they meet.

Those with an order along their slots differ from slot to slot, and as a whole with the number of slots: that is noted.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.ops._base import Call, Labels, Rule, register

_OPS = (
    "zeros ones full empty rand randn arange linspace eye scalar_tensor empty_strided new_zeros new_ones new_full "
    "new_empty new_empty_strided empty_permuted logspace"
)
_ORDERED = ("aten.arange", "aten.linspace", "aten.logspace", "aten.eye")


def _run(call: Call) -> Sequence[Labels]:
    tensors = [leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]
    labels = [call.fresh(tensor) for tensor in tensors]
    for tensor, found in zip(tensors, labels, strict=True):
        call.integers(tensor.shape, [found.get(dim) for dim in range(tensor.dim())])
        if (name := str(call.func.overloadpacket)) in _ORDERED:
            for vector in found.values():
                call.note(vector, f"values computed from the number of channels ({name.removeprefix('aten.')})")
    return labels


class _Example(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.drop = nn.Dropout2d(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.head(self.drop(y) * torch.ones(y.shape[1], 1, 1, dtype=y.dtype, device=y.device))


def _example() -> tuple[nn.Module, torch.Tensor]:
    return _Example(), torch.randn(1, 3, 4, 4)


register("create", Rule(tuple(f"aten.{op}" for op in _OPS.split()), _run, _example))
