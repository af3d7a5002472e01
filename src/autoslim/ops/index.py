"""Indexing with tensors: positions are chosen, channels along the other dimensions stay what they are."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, register


def _index(call: Call) -> Sequence[Labels]:
    x, first, taken = _read(call)
    if first is None:
        return [{}]
    added = call.out.dim() - (x.dim() - taken)
    kept = {dim: vector for dim, vector in call.labels(x).items() if not first <= dim < first + taken}
    return [{dim if dim < first else dim - taken + added: vector for dim, vector in kept.items()}]


def _put(call: Call) -> Sequence[Labels]:
    """`x[indices] = values`: along dimensions that are not indexed, values and x hold the same channels."""
    x, first, taken = _read(call)
    values = call.arg(2, "values")
    if first is None:
        for vector in call.labels(values).values():
            call.pin(vector, "written to positions that can't be followed")
        return [{}]
    labels, theirs = dict(call.labels(x)), call.labels(values)
    for dim in range(x.dim()):
        from_end = x.dim() - dim
        if values.dim() >= from_end and values.shape[-from_end] > 1:
            vector = theirs.get(values.dim() - from_end)
            if first <= dim < first + taken:
                call.pin(vector, "written to positions along its channels")
            elif (both := call.match(labels.get(dim), vector)) is not None:
                labels[dim] = both
            else:
                labels.pop(dim, None)
    return [labels]


def _read(call: Call) -> tuple[torch.Tensor, int | None, int]:
    """x, the first indexed dimension (None if they do not lie side by side), and how many there are.

    Labels along them are pinned: which channel goes where is a matter of values.
    """
    x, indices = call.args[0], call.arg(1, "indices")
    spans: list[tuple[int, int]] = []
    dim = 0
    for index in indices:
        size = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            spans.append((dim, size))
        dim += size
    side_by_side = all(a + n == b for (a, n), (b, _) in pairwise(spans))
    indexed = {dim + i for dim, size in spans for i in range(size)}
    for dim, vector in call.labels(x).items():
        if dim in indexed or not side_by_side:
            call.pin(vector, "channels are picked by an index")
    return x, spans[0][0] if spans and side_by_side else None, len(indexed)


class _Example(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.head = how, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, rows = self.conv(x), torch.arange(3, -1, -1, device=x.device)
        if self.how == "index":
            return self.head(y[:, :, rows])
        z = torch.zeros_like(y).transpose(0, 2).contiguous()
        z[rows] = y.transpose(0, 2)
        return self.head(z.transpose(0, 2))


def _register(name: str, ops: tuple[str, ...], run: object) -> None:
    register(name, Rule(ops, run, lambda: (_Example(name), torch.randn(1, 3, 4, 4))))  # pyright: ignore[reportArgumentType]


_register("index", ("aten.index",), _index)
_register("index_put", ("aten.index_put", "aten.index_put_"), _put)
