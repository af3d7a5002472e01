"""Reductions. Over the map they leave channels alone; over channels they are statistics of those that are left."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.ops._base import Call, Labels, Rule, register

_OPS = "mean sum amax amin prod var std var_mean norm linalg_vector_norm max min"


def _run(call: Call) -> Sequence[Labels]:
    x, name = call.args[0], str(call.func.overloadpacket)
    named = {argument.name: index for index, argument in enumerate(call.func._schema.arguments)}
    dims = call.arg(named["dim"], "dim") if "dim" in named else None
    dims = list(range(x.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % x.dim() for dim in dims}
    outs = [leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]
    kept_dims = outs[0].dim() == x.dim()
    labels: Labels = {}
    for dim, vector in call.labels(x).items():
        if dim not in gone:
            labels[dim if kept_dims else dim - sum(other < dim for other in gone)] = vector
        else:
            call.note(vector, f"a statistic over channels ({name.removeprefix('aten.')})")
    if name == "aten.mean" and kept_dims and min(gone, default=0) == x.dim() - len(gone):
        # So torch runs an RMS norm, whose module or caller may hold the shape that it is taken over.
        call.integers([x.shape[dim] for dim in sorted(gone)], [call.labels(x).get(dim) for dim in sorted(gone)])
    if name == "aten.mean" and x.dim() >= 3 and gone == set(range(x.dim() - len(gone), x.dim())):
        call.average_pool(outs[0], labels)  # a global average pool by another name
    return [labels] * len(outs)


class _Example(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.RMSNorm(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(y.mean((2, 3)) + y.amax((-1, -2)) * y.sum(2).std(-1))


def _example() -> tuple[nn.Module, torch.Tensor]:
    return _Example(), torch.randn(1, 3, 4, 4)


register("reduce", Rule(tuple(f"aten.{op}" for op in _OPS.split()), _run, _example))
