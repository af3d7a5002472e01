"""BatchNorm over the images of all processes, on any device: torch's own SyncBatchNorm refuses CPU tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autoslim.ranks import Ranks


class SharedBatchNorm(TorchFunctionMode):
    """Inside the context BatchNorm in train mode takes its statistics from all processes' images together.

    Whatever module or code calls `torch.nn.functional.batch_norm` is served; the model is left as it is. All processes
    must run the same layers in the same order, forward and backward.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm and Ranks.here().size > 1:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, since every process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return Ranks.here().sum_(x.clone())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return Ranks.here().sum_(grad_outputs[0].clone())


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """As `torch.nn.functional.batch_norm`; input [N, C, ...], statistics at least in float32."""
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input if input.dtype == torch.float64 else input.float()
    over, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    sums = _sum(torch.cat([x.sum(over), x.new_full((1,), x.numel() / x.shape[1])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = x - mean.view(shape)
    variance = _sum(centred.square().sum(over)) / count
    with torch.no_grad():
        for running, new in ((running_mean, mean), (running_var, variance * count / (count - 1))):
            if running is not None:
                running.lerp_(new.to(running.dtype), momentum)
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    y = centred * scale.view(shape)
    return (y if bias is None else y + bias.view(shape)).to(input.dtype)


def _sum(x: torch.Tensor) -> torch.Tensor:
    return _Sum.apply(x)  # pyright: ignore[reportReturnType]
