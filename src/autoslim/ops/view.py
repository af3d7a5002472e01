"""Views and reshapes: the same operator, applied to the labels, says where every channel went."""

from collections.abc import Sequence

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, Vector, register

_OPS = (
    "view _unsafe_view reshape _reshape_alias permute transpose t expand squeeze unsqueeze flip repeat slice select "
    "movedim"
)
_RESHAPES = ("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias")


def _run(call: Call) -> Sequence[Labels]:
    x, name = call.args[0], str(call.func.overloadpacket)
    out: Labels = {}
    for dim, vector in call.labels(x).items():
        shape = [-1 if other == dim else 1 for other in range(x.dim())]
        # Positions, not labels, are followed: labels that are tied already would hide where a channel went.
        spread = torch.arange(len(vector)).view(shape).expand(x.shape)
        # A view of the data may need a copy of the labels, which are laid out otherwise.
        moved = (
            spread.reshape(call.out.shape) if name in _RESHAPES else call.func(spread, *call.args[1:], **call.kwargs)
        )
        landed = _along_one(call, moved, vector)
        if name == "aten.slice" and landed is not None and len(landed[1]) < len(vector):
            # Where the code takes its bounds from can't be seen: in a narrower map they may cut elsewhere.
            call.pin(vector, "channels are sliced by position")
        if landed is None or landed[0] in out:
            why = "one channel is picked out of" if landed is None else "two channel dimensions are merged in"
            call.pin(vector, f"{why} {name}")
            if landed is not None:
                call.pin(out.pop(landed[0]), f"{why} {name}")
        else:
            out[landed[0]] = landed[1]
    return [out]


def _along_one(call: Call, moved: torch.Tensor, vector: Vector) -> tuple[int, Vector] | None:
    """The dimension along which the positions `moved` vary, and the labels there; ties along all others that vary."""
    for dim in range(moved.dim()):
        if moved.shape[dim] > 1 and moved.stride(dim) == 0:
            moved = moved.narrow(dim, 0, 1)
    varying = [d for d in range(moved.dim()) if not torch.equal(moved, moved.narrow(d, 0, 1).expand_as(moved))]
    if not varying:
        return None
    *tied, last = varying
    labels = vector[moved]
    for dim in range(labels.dim()):
        if dim in tied:
            # view(b, 2, c // 2, ...) and the like: the number of parts is the code's, their length follows the width.
            call.tie(labels, labels.narrow(dim, 0, 1))
        if dim != last:
            labels = labels.narrow(dim, 0, 1)
    return last, labels.reshape(-1)


class _Example(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        batch, channels, height, width = y.shape
        shuffled = (
            y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        )
        return self.head(shuffled.permute(0, 2, 3, 1).flip(1).permute(0, 3, 1, 2).flatten(1))


def _example() -> tuple[nn.Module, torch.Tensor]:
    return _Example(), torch.randn(1, 3, 2, 2)


register("view", Rule(tuple(f"aten.{op}" for op in _OPS.split()), _run, _example))
