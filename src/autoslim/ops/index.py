"""Indexing with tensors, sorting, running sums: along other dimensions channels stay what they are."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.ops._base import Call, Labels, Rule, register

_SCANS = "cumsum cumprod logcumsumexp cummax cummin sort argsort topk"


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
        for vector in call.labels(index).values() if index is not None else ():
            call.pin(vector, "an index of as many places as there are channels")
    side_by_side = all(a + n == b for (a, n), (b, _) in pairwise(spans))
    indexed = {dim + i for dim, size in spans for i in range(size)}
    for dim, vector in call.labels(x).items():
        if dim in indexed or not side_by_side:
            call.pin(vector, "channels are picked by an index")
    return x, spans[0][0] if spans and side_by_side else None, len(indexed)


def _index_select(call: Call) -> Sequence[Labels]:
    labels, dim = call.labels(call.args[0]), call.arg(1, "dim") % call.args[0].dim()
    call.pin(labels.get(dim), "channels are picked by an index")
    call.pin(call.labels(call.arg(2, "index")).get(0), "an index of as many places as there are channels")
    return [{d: vector for d, vector in labels.items() if d != dim}]


def _gather(call: Call) -> Sequence[Labels]:
    """Along all other dimensions the index says for each slot of x what is picked there: both have the same slots."""
    x, index, dim = call.args[0], call.arg(2, "index"), call.arg(1, "dim") % call.args[0].dim()
    labels, theirs = call.labels(x), call.labels(index)
    out: Labels = {}
    for d in range(x.dim()):
        if d == dim:
            call.pin(labels.get(d), "channels are picked by an index")
            call.pin(theirs.get(d), "an index of as many places as there are channels")
        elif index.shape[d] < x.shape[d]:
            call.pin(labels.get(d), "an index picks from the first channels alone")
            call.pin(theirs.get(d), "an index of as many places as there are channels")
        elif x.shape[d] > 1 and (both := call.match(labels.get(d), theirs.get(d))) is not None:
            out[d] = both
    return [out]


def _scan(call: Call) -> Sequence[Labels]:
    """Each slot along `dim` is made from others along it, in their order: channels there stay, all others go on."""
    names = [argument.name for argument in call.func._schema.arguments]
    x, name = call.args[0], str(call.func.overloadpacket)
    dim = call.arg(names.index("dim"), "dim", -1) % x.dim()
    call.pin(call.labels(x).get(dim), f"the order of channels matters to {name}")
    outs = [leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]
    return [{d: vector for d, vector in call.labels(x).items() if d != dim}] * len(outs)


class _Example(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.head = how, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, rows = self.conv(x), torch.arange(3, -1, -1, device=x.device)
        if self.how == "index":
            return self.head(y[:, :, rows])
        if self.how == "index_select":
            return self.head(y.index_select(2, rows))
        if self.how == "gather":
            return self.head(y.gather(2, y.argsort(3)))
        if self.how == "scan":
            return self.head(y.cumsum(2) + y.sort(3)[0] + y.flatten(2).topk(1)[0][..., None])
        z = torch.zeros_like(y).transpose(0, 2).contiguous()
        z[rows] = y.transpose(0, 2)
        return self.head(z.transpose(0, 2))


def _register(name: str, ops: tuple[str, ...], run: object) -> None:
    register(name, Rule(ops, run, lambda: (_Example(name), torch.randn(1, 3, 4, 4))))  # pyright: ignore[reportArgumentType]


_register("index", ("aten.index",), _index)
_register("index_put", ("aten.index_put", "aten.index_put_"), _put)
_register("index_select", ("aten.index_select",), _index_select)
_register("gather", ("aten.gather",), _gather)
_register("scan", tuple(f"aten.{op}" for op in _SCANS.split()), _scan)
