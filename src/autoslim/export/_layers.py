"""torch's layers as the text that makes them: `nn.Conv2d(3, 32, kernel_size=3, padding=1, bias=False)`."""

import inspect
from typing import Any

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
PASSED = ("Identity", "StochasticDepth")  # by name, for torchvision's; in eval mode they give what they are given
KNOWN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d,
    nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.InstanceNorm2d, nn.LocalResponseNorm,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax,
    nn.LogSoftmax, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d,
    nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Flatten,
    nn.Unflatten, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.Upsample,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
)  # fmt: skip
_WHOLE = (nn.LayerNorm, nn.RMSNorm, nn.Unflatten)  # whose tuple is a shape
_PRESENCE = "bias"  # a parameter that an argument of the same name asked for
_NOT_ASKED = ("device", "dtype", "inplace", "_weight", "_freeze")  # in place saves memory in training, no more


def say_layer(layer: nn.Module) -> str:
    """The call that makes a layer like this one, which is one of `KNOWN`.

    >>> say_layer(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False))
    'nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1, bias=False)'
    """
    kind = type(layer)
    said: list[str] = []
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in ("self", *_NOT_ASKED) or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = _argument(layer, name)
        if parameter.default is parameter.empty and name in (
            "in_channels",
            "out_channels",
            "in_features",
            "out_features",
        ):
            said.append(repr(value))
        elif parameter.default is parameter.empty or value != parameter.default:
            said.append(f"{name}={value!r}")
    return f"nn.{kind.__name__}({', '.join(said)})"


def _argument(layer: nn.Module, name: str) -> Any:
    value = getattr(layer, name)
    if name == _PRESENCE and not isinstance(value, bool):
        return value is not None
    if isinstance(value, tuple) and not isinstance(layer, _WHOLE) and len(set(value)) == 1:
        return value[0]  # 3 for (3, 3), as it was most likely written
    return tuple(value) if isinstance(value, (list, tuple)) else value
