"""Convolutions that a CPU trains badly, the other way: the same up to rounding, and only these."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoslim.train import CPUConvolutions
from autoslim.train._device import suit


class Seen(TorchDispatchMode):
    """Notes padding and stride of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.paddings: list[list[int]] = []
        self.strides: list[list[int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.strides.append(list(args[3]))
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
    with CPUConvolutions():
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
        (6, (4, 4), 0, True, [0, 0]),
    ],
)
def test_only_depthwise_convolutions_over_maps_smaller_than_their_kernel_are_padded(
    groups, size, padding, trained, expected
):
    weight = torch.randn(6, 6 // groups, 3, 3, requires_grad=trained)
    with Seen() as seen, CPUConvolutions():
        F.conv2d(torch.randn(2, 6, *size), weight, padding=padding, groups=groups)
    assert seen.paddings == [expected]


@pytest.mark.parametrize(
    ("kernel", "channels", "stride", "expected"),
    [
        (1, 4, 2, [1, 1]),
        (1, 4, (3, 1), [1, 1]),
        (1, 16, 2, [2, 2]),
        (3, 4, 2, [2, 2]),
        (1, 4, 1, [1, 1]),
    ],
)
def test_of_strided_1x1_convolutions_over_few_channels_pixels_are_picked_first(kernel, channels, stride, expected):
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 8, kernel, stride, kernel // 2).double()
    images = torch.randn(2, channels, 7, 5, dtype=torch.double, requires_grad=True)
    with Seen() as seen, CPUConvolutions():
        found = conv(images)
    assert seen.strides == [expected]
    for one, other in zip(
        *(torch.autograd.grad(x.square().sum(), [images, *conv.parameters()]) for x in (found, conv(images))),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_passes_elsewhere_are_left_alone():
    assert isinstance(suit(torch.device("cpu")), CPUConvolutions)
    assert not isinstance(suit(torch.device("cuda")), CPUConvolutions)


def test_a_gpu_gives_the_same_twice_while_it_trains():
    assert not torch.backends.cudnn.deterministic
    with suit(torch.device("cuda")):
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic


CRASHES = """
import torch
from torch import nn
from autoslim.train import CPUConvolutions

torch.set_num_threads(1)
torch.manual_seed(0)
conv, images = nn.Conv2d(2, 4, 1, 2, bias=False), torch.randn(128, 2, 8, 8).to(memory_format=torch.channels_last)
for number in range(20):
    with CPUConvolutions():
        output = conv(images)
    (found,) = torch.autograd.grad(output.square().sum(), [conv.weight])
    weight = conv.weight.detach().double().requires_grad_()
    exact = nn.functional.conv2d(images.double(), weight, stride=2)
    torch.testing.assert_close(found, torch.autograd.grad(exact.square().sum(), [weight])[0].float())
"""


def test_a_shortcut_of_few_channels_is_trained_without_a_crash():
    memory_is_checked = {**os.environ, "MALLOC_CHECK_": "3"}  # glibc ends a process that wrote where it may not
    subprocess.run([sys.executable, "-c", CRASHES], env=memory_is_checked, check=True, timeout=120)


def test_compiled_networks_can_be_trained_in_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(2, 6, 2, 2)
    expected = net(images)
    with CPUConvolutions():
        found = torch.compile(net, backend="aot_eager")(images)
    torch.testing.assert_close(found, expected)
