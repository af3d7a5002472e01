"""Pointwise operators, broadcasting included: the channels of all operands are the same channels."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.ops._base import Call, Labels, Rule, register

# Torch tags nearly all pointwise operators as such; these it does not, or they make a tensor in another's shape.
_OPS = (
    "hardswish_ hardsigmoid_ hardtanh hardtanh_ leaky_relu_ elu_ silu_ mish_ relu_ relu6 empty_like zeros_like "
    "ones_like full_like rand_like randn_like bernoulli bernoulli_ native_dropout _to_copy clone detach alias "
    "_prelu_kernel copy_ fill_ zero_ uniform_ normal_ lift_fresh contiguous"
)


def _run(call: Call) -> Sequence[Labels]:
    first = next(leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor))
    operands = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, torch.Tensor)]
    labels: Labels = {}
    for dim in range(first.dim()):
        from_end = first.dim() - dim
        # An operand of size 1 here is spread over the dimension: it has no channels of its own to agree with.
        full = [t for t in operands if t.dim() >= from_end and t.shape[-from_end] > 1]
        vector = call.match(*(call.labels(t).get(t.dim() - from_end) for t in full))
        if vector is not None:
            labels[dim] = vector
    return [labels] * len([leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)])


class _Example(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.gate = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(3, 1, 1)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.left(x)) + self.right(x) * self.scale
        return self.head(nn.functional.hardswish(y, inplace=True) * torch.sigmoid(self.gate(x)))


def _example() -> tuple[nn.Module, torch.Tensor]:
    return _Example(), torch.randn(1, 3, 5, 5)


register("pointwise", Rule(tuple(f"aten.{op}" for op in _OPS.split()), _run, _example))
