"""Products of activations, and softmax: where channels are summed against each other they stay as they are."""

from collections.abc import Sequence

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, register

_SDPA = (
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_attention_math _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
)
_WHY = "channels of two activations are multiplied and summed (attention)"


def _bmm(call: Call) -> Sequence[Labels]:
    """[B, M, K] x [B, K, N]: rows and columns go on; a channel dimension K that is summed over stays.

    Unless one side is a weight: so torch runs einsum, and some linear layers whose input is not contiguous.
    """
    with_bias = "baddbmm" in str(call.func)
    left, right = call.args[-2:] if with_bias else call.args[:2]
    a, b = call.labels(left), call.labels(right)
    weight = next((side for side in (b, a) if _is_weight(call, side)), None)
    inner, sides = left.shape[2], {1: a.get(1), 2: b.get(2)}
    if weight is None:
        for vector in (a.get(2), b.get(1), a.get(0), b.get(0)):
            call.pin(vector, _WHY)
    else:
        sides = {0: (a if weight is b else b).get(0), **sides}
        read = call.match(a.get(2), b.get(1))
        if read is not None:
            call.ledger.read.append(read)
            inner = read
        call.names(in_features=read, out_features=sides[2])
    factors = [call.out.shape[dim] if vector is None else vector for dim, vector in sides.items()]
    call.macs("matmul", left.shape[0] if weight is None else 1, inner, *factors)
    if with_bias:
        bias = call.args[0]
        for dim in (dim for dim in (1, 2) if bias.dim() >= 3 - dim and bias.shape[dim - 3] > 1):
            sides[dim] = call.match(sides[dim], call.labels(bias).get(bias.dim() + dim - 3))
    out = {dim: vector for dim, vector in sides.items() if vector is not None}
    if weight is not None:
        if (made := out.get(2 if weight is b else 1)) is not None:
            call.ledger.made.append((made, call.module))
        call.outputs("matmul", call.out, out)
    return [out]


def _is_weight(call: Call, labels: Labels) -> bool:
    """Whether a matrix has its rows and columns of one parameter, the same for all of a batch."""
    rows, columns = (call.ledger.find_tensor(labels[dim]) if dim in labels else None for dim in (1, 2))
    return rows is not None and rows == columns and (0 not in labels or call.is_loose(labels[0]))


def _sdpa(call: Call) -> Sequence[Labels]:
    """Queries, keys [B, heads, tokens, E] and values [B, heads, tokens, V]: channels of the values go on."""
    query, key, value = (call.arg(i, name) for i, name in enumerate(("query", "key", "value")))
    for tensor in (query, key):
        for vector in call.labels(tensor).values():
            call.pin(vector, _WHY)
    out = {dim: vector for dim, vector in call.labels(value).items() if dim == value.dim() - 1}
    for dim, vector in call.labels(value).items():
        if dim not in out:
            call.pin(vector, _WHY)
    *batch, tokens, depth = query.shape
    scale = key.shape[-2] * tokens
    for size in batch:
        scale *= size
    call.macs("matmul", scale * depth)
    call.macs("matmul", scale, *out.values() or (value.shape[-1],))
    results = call.out if isinstance(call.out, (tuple, list)) else (call.out,)
    tensors = [result for result in results if isinstance(result, torch.Tensor)]
    return [out, *({} for _ in tensors[1:])]


def _softmax(call: Call) -> Sequence[Labels]:
    x, dim = call.args[0], call.arg(1, "dim") % call.args[0].dim()
    labels = call.labels(x)
    call.pin(labels.get(dim), "a softmax over channels")
    return [{d: vector for d, vector in labels.items() if d != dim}]


class _Context(nn.Module):
    """Global context: positions are weighed by a softmax over the map, channels are not mixed."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.mask, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 1, 1), nn.Linear(8, 4)
        self.mix = nn.Linear(8, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, weights = self.conv(x).flatten(2), self.mask(x).flatten(2)
        if self.how == "sdpa":
            tokens = y.transpose(1, 2)[:, None]
            query = x.flatten(2).transpose(1, 2)[:, None]
            return self.head(nn.functional.scaled_dot_product_attention(query, query, tokens)[:, 0].sum(1))
        y = torch.einsum("nct,dc->ndt", y, self.mix.weight)
        return self.head(torch.bmm(y, weights.softmax(-1).transpose(1, 2)).squeeze(2))


def _register(name: str, ops: str, run: object) -> None:
    rule = Rule(tuple(f"aten.{op}" for op in ops.split()), run, lambda: (_Context(name), torch.randn(2, 3, 2, 2)))  # pyright: ignore[reportArgumentType]
    register(name, rule)


_register("bmm", "bmm baddbmm", _bmm)
_register("sdpa", _SDPA, _sdpa)
_register("softmax", "_softmax _log_softmax _safe_softmax", _softmax)
