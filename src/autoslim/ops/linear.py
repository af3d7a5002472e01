"""Matrix products: linear layers, and any other product of two matrices."""

from collections.abc import Sequence

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, register


def _run(call: Call) -> Sequence[Labels]:
    with_bias = str(call.func.overloadpacket) == "aten.addmm"
    left, right = call.args[1:3] if with_bias else call.args[:2]
    a, b = call.labels(left), call.labels(right)
    rows, inner, columns = left.shape[0], left.shape[1], right.shape[1]
    read = None
    if inner > 1:
        read = call.match(a.get(1), b.get(0))
        if read is not None:
            call.ledger.read.append(read)
            inner = read
    come, made = a.get(0), b.get(1)
    call.macs("matmul", 1, rows if come is None else come, inner, columns if made is None else made)
    if with_bias and columns > 1:
        bias = call.args[0]
        made = call.match(made, call.labels(bias).get(bias.dim() - 1))
    out = {dim: vector for dim, vector in ((0, come), (1, made)) if vector is not None}
    if made is not None:
        call.ledger.made.append((made, call.module))
    call.outputs("matmul", call.out, out)
    call.names(in_features=read, out_features=made)
    return [out]


def _example() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8, bias=False), nn.Linear(8, 3)), torch.randn(2, 6)


register("linear", Rule(("aten.addmm", "aten.mm"), _run, _example))
