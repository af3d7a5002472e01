"""Convolutions of shapes that a CPU trains slowly, or wrongly, put in words that it trains well."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_BLOCK = 16  # channels; oneDNN's own are 8 with AVX2, 16 with AVX-512


class CPUConvolutions(TorchFunctionMode):
    """Two shapes that oneDNN, which runs them on a CPU, has no good way for. Values agree up to rounding.

    *Depthwise, the kernel larger than the map* (MobileNet v2 ends in 2x2 pixels for an image of 64): no kernel for the
    weights' gradient, and the way around takes 2 to 17 times as long as padding and convolving the larger map.

    *1x1 with a stride, over fewer than 8 channels, channels-last* (the shortcuts of a slim residual network): the
    weights' gradient is written past its memory on a CPU without AVX-512, which ends in wrong numbers or a crash
    (oneDNN issue 6035). Here the pixels are picked first.

    The passes of `autoslim.train` run inside it; a backward pass of your own should follow a forward pass that does.
    Layers that checkpoint their activations are left as they are: they run again outside of any mode.

    >>> depthwise, images = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(4, 8, 2, 2)
    >>> with CPUConvolutions():
    ...     output = depthwise(images)
    >>> torch.allclose(output, depthwise(images), atol=1e-6)
    True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs `func`, or such a convolution the other way."""
        if func is torch.conv2d:
            return _convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolve(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """`torch.conv2d`, with its own names."""
    if input.dim() == 4 and input.is_cpu and weight.requires_grad and not isinstance(padding, str) and _runs_once():
        (high, wide), steps, kernel = _pair(padding), _pair(stride), weight.shape[2:]
        if 1 < groups == input.shape[1] and min(high, wide) > 0 and _exceeds(kernel, input.shape[2:]):
            input, padding = F.pad(input, (wide, wide, high, high)), 0
        elif tuple(kernel) == (1, 1) and max(high, wide) == 0 and max(steps) > 1 and input.shape[1] < _BLOCK:
            input, stride = input[:, :, :: steps[0], :: steps[1]], 1
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value[0], value[-1]) if isinstance(value, Sequence) else (value, value)


def _exceeds(kernel: Sequence[int], pixels: Sequence[int]) -> bool:
    return any(size > most for size, most in zip(kernel, pixels, strict=True))


def _runs_once() -> bool:
    """Whether nothing will run again in the backward pass: it must find there what it did before."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None  # pyright: ignore
