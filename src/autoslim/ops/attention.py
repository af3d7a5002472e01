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
    """[B, M, K] x [B, K, N]: rows and columns go on; a channel dimension K that is summed over stays."""
    left, right = call.args[-2:] if "baddbmm" in str(call.func) else call.args[:2]
    a, b = call.labels(left), call.labels(right)
    for vector in (a.get(2), b.get(1), a.get(0), b.get(0)):
        call.pin(vector, _WHY)
    sides = {1: a.get(1), 2: b.get(2)}
    factors = [call.out.shape[dim] if vector is None else vector for dim, vector in sides.items()]
    call.macs("matmul", left.shape[0] * left.shape[2], *factors)
    return [{dim: vector for dim, vector in sides.items() if vector is not None}]


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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, weights = self.conv(x).flatten(2), self.mask(x).flatten(2)
        if self.how == "sdpa":
            tokens = y.transpose(1, 2)[:, None]
            query = x.flatten(2).transpose(1, 2)[:, None]
            return self.head(nn.functional.scaled_dot_product_attention(query, query, tokens)[:, 0].sum(1))
        return self.head(torch.bmm(y, weights.softmax(-1).transpose(1, 2)).squeeze(2))


def _register(name: str, ops: str, run: object) -> None:
    rule = Rule(tuple(f"aten.{op}" for op in ops.split()), run, lambda: (_Context(name), torch.randn(1, 3, 2, 2)))  # pyright: ignore[reportArgumentType]
    register(name, rule)


_register("bmm", "bmm baddbmm", _bmm)
_register("sdpa", _SDPA, _sdpa)
_register("softmax", "_softmax _log_softmax _safe_softmax", _softmax)
