"""Depthwise convolutions over maps smaller than their kernel, as a CPU trains them fast."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class PaddedDepthwise(TorchFunctionMode):
    """Pads before a depthwise convolution whose kernel is larger than its map, where it runs on a CPU.

    oneDNN's depthwise kernels for the weights' gradient leave such shapes out, and its fallback took 2 to 17 times as
    long as padding and convolving the larger map (MobileNet v2 ends in 2x2 pixels for an image of 64). Values agree up
    to rounding.

    Example:
        >>> import torch
        >>> convolution = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        >>> images = torch.randn(4, 8, 2, 2)
        >>> with PaddedDepthwise():
        ...     padded = convolution(images)
        >>> torch.allclose(padded, convolution(images), atol=1e-6)
        True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs `func`, or for such a convolution its padded form."""
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
    small = any(size < kernel for size, kernel in zip(input.shape[-2:], weight.shape[-2:], strict=True))
    depthwise = input.dim() == 4 and 1 < groups == input.shape[1]
    if small and depthwise and input.is_cpu and weight.requires_grad and not isinstance(padding, str):
        high, wide = (padding, padding) if isinstance(padding, int) else (padding[0], padding[-1])
        input, padding = F.pad(input, (wide, wide, high, high)), 0
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
