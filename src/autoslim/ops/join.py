"""Concatenation and its inverse: cat, stack, split, chunk, unbind."""

from collections.abc import Sequence

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, register


def _cat(call: Call) -> Sequence[Labels]:
    tensors = [tensor for tensor in call.arg(0, "tensors") if tensor.dim() > 1 or tensor.shape[0] > 0]
    axis = call.arg(1, "dim", 0) % tensors[0].dim()
    out: Labels = {}
    for dim in range(tensors[0].dim()):
        vectors = [call.labels(tensor).get(dim) for tensor in tensors]
        if dim != axis:
            vector = call.match(*vectors) if tensors[0].shape[dim] > 1 else None
            if vector is not None:
                out[dim] = vector
        elif any(vector is not None for vector in vectors):
            parts: list[torch.Tensor] = []
            for tensor, vector in zip(tensors, vectors, strict=True):
                if vector is None:  # slots that are nobody's to remove, among others that may go
                    vector = call.ledger.new(tensor.shape[dim])
                    call.pin(vector, "a tensor of fixed size is concatenated")
                parts.append(vector)
            out[dim] = torch.cat(parts)
    return [out]


def _stack(call: Call) -> Sequence[Labels]:
    tensors = call.arg(0, "tensors")
    axis = call.arg(1, "dim", 0) % (tensors[0].dim() + 1)
    out: Labels = {}
    for dim in range(tensors[0].dim()):
        if tensors[0].shape[dim] > 1:
            vector = call.match(*(call.labels(tensor).get(dim) for tensor in tensors))
            if vector is not None:
                out[dim + (dim >= axis)] = vector
    return [out]


def _split(call: Call) -> Sequence[Labels]:
    x, axis = call.args[0], call.arg(2, "dim", 0) % call.args[0].dim()
    labels = call.labels(x)
    outs: list[Labels] = [{dim: v for dim, v in labels.items() if dim != axis} for _ in call.out]
    if axis in labels:
        sizes = [part.shape[axis] for part in call.out]
        parts = list(labels[axis].split(sizes))
        if len(set(sizes)) == 1:  # parts of equal size stay equal at every width, be they chunk()'s or the code's own
            for part in parts[1:]:
                call.tie(part, parts[0])
        # Whether the code really splits there at other widths is seen by the probe.
        call.integers(sizes, parts)
        call.integers([x.shape[axis]], [labels[axis]])
        for out, part in zip(outs, parts, strict=True):
            out[axis] = part
    return outs


def _glu(call: Call) -> Sequence[Labels]:
    x, axis = call.args[0], call.arg(1, "dim", -1) % call.args[0].dim()
    labels = call.labels(x)
    if axis in labels:
        value, gate = labels[axis].chunk(2)
        call.tie(value, gate)
        labels = {**labels, axis: value}
    return [labels]


def _unbind(call: Call) -> Sequence[Labels]:
    x, axis = call.args[0], call.arg(1, "dim", 0) % call.args[0].dim()
    labels = call.labels(x)
    call.pin(labels.get(axis), "channels are taken one by one (aten.unbind)")
    return [{dim - (dim > axis): v for dim, v in labels.items() if dim != axis} for _ in call.out]


class _Example(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.left = nn.Conv2d(3, 8, 1)
        self.right = nn.Identity() if how in ("split", "glu") else nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d({"cat": 16, "split": 4, "glu": 4}.get(how, 8), 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.left(x)
        if self.how == "split":
            first, second = a.chunk(2, 1)
            return self.head(first * second)
        if self.how == "glu":
            return self.head(nn.functional.glu(a, 1))
        b = self.right(x)
        if self.how == "cat":
            return self.head(torch.cat([a, b], 1))
        if self.how == "stack":
            return self.head(torch.stack([a, b]).amax(0))
        first, second = torch.stack([a, b]).unbind(0)
        return self.head(first + second)


def _register(name: str, ops: tuple[str, ...], run: object) -> None:
    register(name, Rule(ops, run, lambda: (_Example(name), torch.randn(1, 3, 4, 4))))  # pyright: ignore[reportArgumentType]


_register("cat", ("aten.cat", "aten.concat"), _cat)
_register("stack", ("aten.stack",), _stack)
_register("split", ("aten.split", "aten.split_with_sizes", "aten.chunk"), _split)
_register("glu", ("aten.glu",), _glu)
_register("unbind", ("aten.unbind",), _unbind)
