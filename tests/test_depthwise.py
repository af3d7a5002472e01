"""Depthwise convolutions over small maps: padded while training, the same up to rounding."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoslim.train._depthwise import PaddedDepthwise


class Seen(TorchDispatchMode):
    """Notes the padding of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.paddings: list[list[int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.paddings.append(list(args[4]))
        return func(*args, **(kwargs or {}))


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    multiplier=st.integers(1, 2),
    bias=st.booleans(),
)
def test_padded_convolution_and_its_gradients_are_the_same(size, kernel, stride, multiplier, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6 * multiplier, kernel, stride, kernel // 2, groups=6, bias=bias).double()
    images = torch.randn(2, 6, *size, dtype=torch.double, requires_grad=True)
    outputs = [conv(images)]
    with PaddedDepthwise():
        outputs.append(conv(images))
    torch.testing.assert_close(outputs[1], outputs[0])
    weigh = torch.randn_like(outputs[0])
    found = [torch.autograd.grad((out * weigh).sum(), [images, *conv.parameters()]) for out in outputs]
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    ("groups", "size", "padding", "trained", "expected"),
    [
        (6, (2, 2), 1, True, [0, 0]),
        (6, (2, 8), (1, 1), True, [0, 0]),
        (6, (3, 3), 1, True, [1, 1]),  # the map is no smaller than the kernel
        (2, (2, 2), 1, True, [1, 1]),  # grouped, not depthwise
        (6, (2, 2), 1, False, [1, 1]),  # no gradient of the weights
        (6, (2, 2), "same", True, [1, 1]),
    ],
)
def test_only_depthwise_convolutions_over_maps_smaller_than_their_kernel_are_padded(
    groups, size, padding, trained, expected
):
    weight = torch.randn(6, 6 // groups, 3, 3, requires_grad=trained)
    with Seen() as seen, PaddedDepthwise():
        F.conv2d(torch.randn(2, 6, *size), weight, padding=padding, groups=groups)
    assert seen.paddings == [expected]


def test_compiled_networks_can_be_trained_in_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(2, 6, 2, 2)
    expected = net(images)
    with PaddedDepthwise():
        found = torch.compile(net, backend="aot_eager")(images)
    torch.testing.assert_close(found, expected)
