"""Pointwise operators, broadcasting included: the channels of all operands are the same channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.ops._base import Call, Labels, Rule, register

_ACTIVATIONS = (
    "relu relu6 hardswish hardsigmoid hardtanh leaky_relu elu silu mish sigmoid tanh gelu celu selu softplus "
    "hardshrink softshrink threshold rrelu_with_noise"
)
# Torch tags nearly all pointwise operators as such; these it does not, or they make a tensor in another's shape.
_OPS = (
    "empty_like zeros_like ones_like full_like rand_like randn_like bernoulli bernoulli_ native_dropout _to_copy clone "
    "detach alias _prelu_kernel log_sigmoid_forward copy_ fill_ zero_ uniform_ normal_ lift_fresh contiguous"
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


def _infer(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The commonest cases: one tensor, or two of one shape."""
    name = str(func.overloadpacket).removeprefix("aten.")
    if name.removesuffix("_") in _ACTIVATIONS.split():
        return args[0] if name.endswith("_") else torch.empty_like(args[0])
    if name in ("add", "mul", "add_", "mul_") and isinstance(args[1], torch.Tensor):
        first, second = args[:2]
        if first.shape == second.shape and first.dtype == second.dtype and second.is_meta:
            return first if name.endswith("_") else torch.empty_like(first)
    return None


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


_NAMES = (*_OPS.split(), *(f"{op}{place}" for op in _ACTIVATIONS.split() for place in ("", "_")))
register("pointwise", Rule(tuple(f"aten.{op}" for op in _NAMES), _run, _example, _infer))
