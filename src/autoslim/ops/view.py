"""Views and reshapes: where every channel goes when dimensions are moved, split, merged, cut or repeated."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, Vector, register

_MOVES = "permute transpose t unsqueeze flip movedim _reshape_copy"
_VIEWS = "view _unsafe_view reshape _reshape_alias"


def _move(call: Call) -> Sequence[Labels]:
    """The operator itself, applied to the labels with all other dimensions of size one."""
    x = call.args[0]
    out: Labels = {}
    for dim, vector in call.labels(x).items():
        moved = call.func(vector.view([-1 if d == dim else 1 for d in range(x.dim())]), *call.args[1:], **call.kwargs)
        (landed,) = [d for d, size in enumerate(moved.shape) if size > 1]
        out[landed] = moved.reshape(-1)
    return [out]


def _squeeze(call: Call) -> Sequence[Labels]:
    x, dims = call.args[0], call.arg(1, "dim")
    asked = range(x.dim()) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % x.dim() for dim in asked if x.shape[dim] == 1}
    return [{dim - sum(g < dim for g in gone): vector for dim, vector in call.labels(x).items()}]


def _expand(call: Call) -> Sequence[Labels]:
    x, sizes = call.args[0], call.arg(1, "size")
    added = len(sizes) - x.dim()
    out = {dim + added: vector for dim, vector in call.labels(x).items()}
    spread = [d for d, size in enumerate(call.out.shape) if size > 1 and (d < added or x.shape[d - added] == 1)]
    if spread:  # copies of one value become whatever they meet
        out |= call.fresh(call.out, *spread)
    call.integers(sizes, [out.get(dim) for dim in range(len(sizes))])
    return [out]


def _repeat(call: Call) -> Sequence[Labels]:
    x, times = call.args[0], call.arg(1, "repeats")
    added = len(times) - x.dim()
    out = {dim + added: vector.repeat(times[dim + added]) for dim, vector in call.labels(x).items()}
    copied = [d for d, n in enumerate(times) if n > 1 and (d < added or x.shape[d - added] == 1)]
    out |= call.fresh(call.out, *copied) if copied else {}
    call.integers(times, [out.get(dim) if dim in copied else None for dim in range(len(times))])
    return [out]


def _select(call: Call) -> Sequence[Labels]:
    x, dim = call.args[0], call.arg(1, "dim") % call.args[0].dim()
    labels = call.labels(x)
    call.pin(labels.get(dim), "one channel is picked out")
    return [{d - (d > dim): vector for d, vector in labels.items() if d != dim}]


def _slice(call: Call) -> Sequence[Labels]:
    """Bounds are integers of the code: an attribute that holds one follows, halves are taken for halves at any width.

    Whether the code really cuts there at other widths is seen by the probe.
    """
    x, dim = call.args[0], call.arg(1, "dim", 0) % call.args[0].dim()
    labels = call.labels(x)
    vector = labels.get(dim)
    if vector is None or call.out.shape[dim] == len(vector):
        return [labels]
    length, step = len(vector), call.arg(4, "step", 1)
    bounds = [0, length]
    call.integers([length], [vector])  # the code may halve a number of its own
    if step != 1 or call.out.shape[dim] == 1:
        call.pin(vector, "channels are picked by position")
    for side, said in enumerate((call.arg(2, "start"), call.arg(3, "end"))):
        if said is not None:
            bound = bounds[side] = min(max(said + length if said < 0 else said, 0), length)
            call.integers([abs(said)], [vector[bound:] if said < 0 else vector[:bound]])
            if 2 * bound == length and not call.holds(bound):
                call.tie(vector[:bound], vector[bound:])
    return [{**labels, dim: vector[bounds[0] : bounds[1] : step]}]


def _roll(call: Call) -> Sequence[Labels]:
    x, dims = call.args[0], [dim % call.args[0].dim() for dim in call.arg(2, "dims", ())]
    labels = call.labels(x)
    for dim, vector in labels.items():
        if dim in dims or not dims:
            call.pin(vector, "channels are rolled")
    return [labels]


def _restride(call: Call) -> Sequence[Labels]:
    """The same elements laid out otherwise; with another shape, channels could be anywhere."""
    x, labels = call.args[0], call.labels(call.args[0])
    if call.out.shape == x.shape:
        return [labels]
    for vector in labels.values():
        call.pin(vector, "channels are addressed by strides")
    return [{}]


def _view(call: Call) -> Sequence[Labels]:
    x, sizes = call.args[0], call.args[1] if len(call.args) > 1 else None
    follows = set() if sizes is None else {dim for dim, size in enumerate(sizes) if size == -1}
    out: Labels = {}
    for dims, landing in _blocks(x.shape, call.out.shape):
        inside = {dim: vector for dim, vector in call.labels(x).items() if dim in dims}
        if len(inside) > 1:
            inside = _bound(call, inside)
            if not inside:
                out |= call.fresh(call.out, *landing)
        if len(inside) > 1:
            for vector in inside.values():
                call.pin(vector, "two channel dimensions are merged")
            continue
        for dim, vector in inside.items():
            shape = [len(vector) if d == dim else 1 for d in dims]
            spread = vector.view(shape).expand([x.shape[d] for d in dims])
            landed = _along_one(call, spread.reshape([call.out.shape[d] for d in landing]), landing, follows)
            if landed is None:
                call.pin(vector, "channels that stay or go together are rearranged")
            else:
                out[landed[0]] = landed[1]
    for tensor, labels in ((call.out, out), (x, call.labels(x))):
        call.integers(tensor.shape, [labels.get(dim) for dim in range(tensor.dim())])
    return [out]


def _bound(call: Call, labels: Labels) -> Labels:
    """Without dimensions of constants, which stay as long as they are: channels are repeated that often."""
    loose = {dim for dim, vector in labels.items() if call.is_loose(vector)}
    if len(loose) < len(labels):  # else all of it is constant
        for dim in loose:
            call.pin(labels[dim], "channels are repeated as often as the code says")
    return {dim: vector for dim, vector in labels.items() if dim not in loose}


def _blocks(come: Sequence[int], goes: Sequence[int]) -> Iterable[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions before and after a reshape that hold the same elements."""
    i = j = 0
    while i < len(come) or j < len(goes):
        left, right, before, after = 1, 1, list[int](), list[int]()
        while not before or not after or left != right:
            if i < len(come) and (not before or left < right or j == len(goes)):
                left, i = left * come[i], i + 1
                before.append(i - 1)
            elif j < len(goes):
                right, j = right * goes[j], j + 1
                after.append(j - 1)
            else:
                break
        yield before, after


def _along_one(call: Call, labels: torch.Tensor, dims: list[int], follows: set[int]) -> tuple[int, Vector] | None:
    """The one dimension, of those in `dims`, along which labels go on to vary; they are tied along all others.

    `view(b, 2, c // 2)` and the like: the number of parts is the code's, their length follows the width. Which of the
    two a dimension is can't be seen; the one written -1 follows, else the longest.
    """
    varying = [d for d in range(labels.dim()) if not torch.equal(labels, labels.narrow(d, 0, 1).expand_as(labels))]
    if not varying:
        return None
    best = max(varying, key=lambda d: (dims[d] in follows, labels.shape[d], d))
    for dim in range(labels.dim()):
        if dim != best:
            first = labels.narrow(dim, 0, 1)
            if dim in varying:
                call.tie(labels, first)
            labels = first
    return dims[best], labels.reshape(-1)


class _Example(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.cut = how, 4
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8 * 4, 5)
        self.left, self.right = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        n, c, h, w = y.shape
        if self.how == "view":
            y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        elif self.how == "move":
            y = y.permute(0, 2, 3, 1).flip(1).permute(0, 3, 1, 2).contiguous()
        elif self.how == "squeeze":
            y = y * y.mean((2, 3), keepdim=True).squeeze(3).squeeze(2)[:, :, None, None]
        elif self.how == "expand":
            y = y * torch.ones(1, dtype=y.dtype, device=y.device).expand(c).view(-1, 1, 1)
        elif self.how == "repeat":
            y = y.repeat(1, 2, 1, 1).view(n, 2, c, h, w).sum(1) + y.repeat_interleave(2, 1).view(n, c, 2, h, w).sum(2)
        elif self.how == "roll":
            y = y.roll(1, 2)
        elif self.how == "restride":
            y = y.as_strided(y.shape, y.stride())
        elif self.how == "select":
            y = torch.stack([y, y]).select(0, 1)
        else:
            y = self.left(y[:, : self.cut]) * self.right(y[:, self.cut :])
        return self.head(y.flatten(1))


def _register(name: str, ops: str, run: object) -> None:
    rule = Rule(tuple(f"aten.{op}" for op in ops.split()), run, lambda: (_Example(name), torch.randn(1, 3, 2, 2)))  # pyright: ignore[reportArgumentType]
    register(name, rule)


_register("view", _VIEWS, _view)
_register("move", _MOVES, _move)
_register("squeeze", "squeeze", _squeeze)
_register("expand", "expand", _expand)
_register("repeat", "repeat", _repeat)
_register("select", "select", _select)
_register("slice", "slice", _slice)
_register("roll", "roll", _roll)
_register("restride", "as_strided as_strided_", _restride)
