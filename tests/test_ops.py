"""Every operator rule, from its own example: traced without an unknown, equal in place, extracted and masked."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoslim import extract_network, trace_channels
from autoslim.extract import copy_model
from autoslim.ops import RULES, find_rule
from autoslim.ops._base import Rule, register
from autoslim.testing.networks import check_subnetwork, outputs, randomise_


@pytest.mark.parametrize("name", sorted(RULES))
def test_contract(name):
    model, x = RULES[name].example()
    model, inputs = randomise_(model).eval(), (x.double(),)
    graph = trace_channels(model, inputs)
    assert {g.frozen for g in graph.groups} == {None, "the network's output"}
    assert any(g.frozen is None for g in graph.groups)
    assert graph.notes == ()
    masked = not any(g.note for g in graph.groups)  # a statistic over channels is another one over fewer
    for seed in range(3):
        check_subnetwork(model, graph, graph.random_widths(seed), inputs, masked=masked)
    check_subnetwork(model, graph, graph.min_widths(), inputs, masked=masked)
    attributes = graph.attributes(graph.min_widths())
    small = extract_network(model, graph, graph.min_widths())
    for path, values in attributes.items():
        for attribute, value in values.items():
            assert getattr(small.get_submodule(path), attribute) == value


def test_an_operator_belongs_to_one_rule():
    rule = RULES["conv"]
    with pytest.raises(ValueError, match="registered twice"):
        register("conv", Rule(("aten.other",), rule.run, rule.example))
    with pytest.raises(ValueError, match=r"aten\.convolution is claimed by two operator rules"):
        register("another conv", Rule(("aten.convolution",), rule.run, rule.example))
    del RULES._items["another conv"]


def test_three_states_of_an_operator():
    assert find_rule(torch.ops.aten.convolution.default) is RULES["conv"]
    assert find_rule(torch.ops.aten.sin.default) is RULES["pointwise"]
    assert find_rule(torch.ops.aten._fft_r2c.default) is None


@pytest.mark.parametrize(
    ("groups", "come", "goes", "atom"), [(2, 8, 12, 2), (4, 8, 8, 4), (8, 16, 24, 2), (16, 16, 16, 1), (16, 16, 32, 1)]
)
def test_grouped_convolutions_keep_slots_or_drop_groups(groups, come, goes, atom):
    model = nn.Sequential(nn.Conv2d(3, come, 1), nn.Conv2d(come, goes, 1, groups=groups), nn.Conv2d(goes, 4, 1))
    graph = trace_channels(model, torch.zeros(1, 3, 4, 4))
    assert graph.group("0").atom == atom
    small = extract_network(model, graph, graph.max_widths().replace({"0": atom}))
    assert small[1].groups == (groups if groups <= 4 else 1)


def test_a_rule_that_fails_freezes_and_tells(monkeypatch):
    def broken(call):
        raise KeyError("no such thing")

    monkeypatch.setitem(
        __import__("autoslim.ops._base", fromlist=["_BY_OP"])._BY_OP,
        "aten.max_pool2d_with_indices",
        Rule(("aten.max_pool2d_with_indices",), broken, RULES["spatial"].example),
    )
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    frozen = trace_channels(model, torch.zeros(1, 3, 4, 4)).group("0").frozen
    assert frozen is not None
    assert frozen.startswith(
        "KeyError ('no such thing') in the rule for the operator aten.max_pool2d_with_indices in 1"
    )


def test_attention_keeps_its_channels_and_is_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            y = self.into(x)
            return self.out(torch.bmm(y, y.transpose(1, 2)).softmax(-1) @ y)

    model, x = randomise_(Attention()).eval(), (torch.randn(2, 3, 8, dtype=torch.float64),)
    graph = trace_channels(model, x)
    assert "channels of two activations are multiplied and summed" in str(graph.group("into").frozen)
    check_subnetwork(model, graph, graph.max_widths(), x)


class Between(nn.Module):
    """Whatever stands between two convolutions."""

    def __init__(self, what, goes=16):
        super().__init__()
        self.first, self.second, self.what = nn.Conv2d(3, 16, 1), nn.Conv2d(goes, 4, 1), what

    def forward(self, x):
        return self.second(self.what(self.first(x)))


def trace_between(what, goes=16, *, masked=True):
    """The group of 16 channels that `what` is given; sub-networks are checked if it is free."""
    model, x = randomise_(Between(what, goes)).eval(), (torch.randn(2, 3, 8, 8, dtype=torch.float64),)
    graph = trace_channels(model, x)
    for widths in (graph.min_widths(), graph.random_widths(1)):
        check_subnetwork(model, graph, widths, x, masked=masked and not graph.group("first").note)
        extract_network(model, graph, widths).train()(*x)
    return graph.group("first")


class Scaled(nn.Module):
    """An RMS norm of its own, told the shape by an attribute."""

    def __init__(self):
        super().__init__()
        self.dim, self.weight = 16, nn.Parameter(torch.ones(16))

    def forward(self, x):
        return F.rms_norm(x, (self.dim,), self.weight)


class Last(nn.Module):
    """Runs a layer on channels that come last."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "norm",
    [
        *(Last(norm) for norm in (nn.RMSNorm(16), nn.RMSNorm((8, 16), elementwise_affine=False), Scaled())),
        nn.RMSNorm((16, 8, 8)),
    ],
)
def test_rms_norm_follows_its_channels(norm):
    group = trace_between(norm)
    assert group.frozen is None
    assert "a statistic over channels" in group.note


@pytest.mark.parametrize(
    "what",
    [
        nn.Upsample(scale_factor=2, mode="nearest-exact"),
        nn.ChannelShuffle(2),
        lambda y: F.fold(F.unfold(y, 2, stride=2), (8, 8), 2, stride=2),
        lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2),
        lambda y: F.max_unpool1d(*F.max_pool1d(y.flatten(2), 2, return_indices=True), 2).view_as(y),
        lambda y: F.max_unpool3d(*F.max_pool3d(y[:, :, None], (1, 2, 2), return_indices=True), (1, 2, 2))[:, :, 0],
        lambda y: y.index_select(2, torch.arange(4, device=y.device)),
        lambda y: y.gather(2, y.argsort(2)),
        lambda y: y.cumsum(2) + y.cummax(-1)[0],
        lambda y: y.flatten(2).topk(4)[0].view(y.shape[0], -1, 2, 2),
    ],
)  # fmt: skip
def test_operators_along_other_dimensions_leave_channels_free(what):
    assert trace_between(what).frozen is None


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda y: y.index_select(1, torch.arange(16, device=y.device).flip(0)), "channels are picked by an index"),
        (lambda y: y.gather(1, torch.zeros_like(y).long()), "channels are picked by an index"),
        (lambda y: y.gather(2, torch.zeros_like(y[:, :8]).long()).repeat(1, 2, 1, 1), "an index picks from the first"),
        (lambda y: y.cumsum(1), "the order of channels matters to aten.cumsum"),
        (lambda y: y.sort(1)[0], "the order of channels matters to aten.sort"),
    ],
)
def test_operators_along_channels_keep_them(what, why):
    assert why in str(trace_between(what).frozen)


def test_unpooling_ties_the_two_sides():
    class SegNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            y, places = F.max_pool2d(self.down(x), 2, return_indices=True)
            return self.head(F.max_unpool2d(self.up(y), places, 2))

    model, x = randomise_(SegNet()).eval(), (torch.randn(2, 3, 8, 8, dtype=torch.float64),)
    graph = trace_channels(model, x)
    assert [(g.name, g.frozen is None) for g in graph.groups] == [("down", True), ("head", False)]
    check_subnetwork(model, graph, graph.min_widths(), x)


def tile(y):
    return y[:, None].expand(-1, 2, -1, -1, -1).reshape(y.shape[0], -1, *y.shape[2:])


def cross(y):
    return (y[:, None].expand(-1, 16, -1, -1, -1) * y[:, :, None]).reshape(y.shape[0], -1, *y.shape[2:])


def bind_later(y):
    copies = y[:, None].expand(-1, 16, -1, -1, -1)
    return copies.reshape(y.shape[0], 256, *y.shape[2:]) * (copies * y[:, :, None]).mean()


def add_flat_ones(y):
    return (y.flatten(1) + torch.ones(1, *y.shape[1:], dtype=y.dtype, device=y.device).flatten(1)).view_as(y)


@pytest.mark.parametrize(
    ("what", "goes", "why"),
    [
        (lambda y: y.repeat_interleave(2, 1), 32, None),
        (tile, 32, None),
        (add_flat_ones, 16, None),
        (cross, 256, "two channel dimensions are merged"),
        (bind_later, 256, "channels are repeated as often as the code says"),
    ],
)
def test_copies_of_channels_are_followed_and_products_of_channels_are_not(what, goes, why):
    frozen = trace_between(what, goes).frozen
    assert frozen is None if why is None else str(frozen).startswith(why)


class Weighs(nn.Module):
    """A product with a weight of its own, in the way that `how` names."""

    def __init__(self, how):
        super().__init__()
        self.how, self.weight, self.bias = how, nn.Parameter(torch.randn(12, 16)), nn.Parameter(torch.randn(12))

    def forward(self, y):
        if self.how == "einsum map":
            return torch.einsum("nchw,dc->ndhw", y, self.weight)
        n, (h, w) = y.shape[0], y.shape[2:]
        if self.how == "einsum tokens":
            z = torch.einsum("btc,dc->btd", y.flatten(2).transpose(1, 2), self.weight).transpose(1, 2)
        elif self.how == "left":
            z = self.weight @ y.flatten(2)
        elif self.how == "biased":
            z = torch.baddbmm(self.bias[None, :, None], self.weight.expand(n, -1, -1), y.flatten(2))
        else:
            z = torch.bmm(self.weight * y.mean((2, 3))[:, None], y.flatten(2))  # a weight for each image
        return z.reshape(n, -1, h, w)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("how", ["einsum map", "einsum tokens", "left", "biased", "modulated"])
def test_a_product_with_a_weight_is_a_linear_layer(how, batch):
    model, x = randomise_(Between(Weighs(how), 12)).eval(), (torch.randn(batch, 3, 4, 4, dtype=torch.float64),)
    graph = trace_channels(model, x)
    assert {g.name: g.size for g in graph.groups if g.frozen is None} == {"first": 16, "what": 12}
    for widths in (graph.min_widths(), graph.random_widths(1)):
        check_subnetwork(model, graph, widths, x, masked=False)
        whole = graph.max_widths().replace({"first": widths["first"]})
        full, small = copy_model(model), extract_network(model, graph, whole)
        with torch.no_grad():
            full.what.weight[:, widths["first"] :] = 0  # nobody reads the channels that went
        torch.testing.assert_close(outputs(full, x), outputs(small, x))


class Functional(nn.Module):
    """Two grouped convolutions of different kinds in one module."""

    def __init__(self):
        super().__init__()
        shapes = {"wide": (16, 3, 1, 1), "halves": (16, 8, 3, 3), "depth": (16, 1, 3, 3), "last": (4, 16, 1, 1)}
        self.kernels = nn.ParameterDict({name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()})

    def forward(self, x):
        y = F.conv2d(F.conv2d(x, self.kernels["wide"]), self.kernels["halves"], padding=1, groups=2)
        y = F.conv2d(y, self.kernels["depth"], padding=1, groups=y.shape[1])
        return F.conv2d(y, self.kernels["last"])


def test_functional_convolutions_of_one_module_are_told_apart():
    model, x = randomise_(Functional()).eval(), (torch.randn(2, 3, 4, 4, dtype=torch.float64),)
    graph = trace_channels(model, x)
    assert [(g.size, g.atom, g.frozen is None) for g in graph.groups] == [(16, 2, True), (16, 2, True), (4, 1, False)]
    for seed in range(3):
        check_subnetwork(model, graph, graph.random_widths(seed), x, masked=False)
    asked = trace_channels(model, x, grouped={"": "groups"})  # by the module's path, for all that it runs
    assert asked.groups[0].atom == 8


def place_codes(y):
    step = torch.arange(0, y.shape[1], 2, device=y.device, dtype=y.dtype)
    turned = torch.arange(y.shape[2], device=y.device, dtype=y.dtype)[:, None] * 10000 ** (-step / y.shape[1])
    return y + torch.cat([turned.sin(), turned.cos()], 1).t()[None, :, :, None]


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (lambda y: y * torch.linspace(0, 1, y.shape[1], dtype=y.dtype, device=y.device).view(1, -1, 1, 1), "linspace"),
        (lambda y: y + torch.arange(y.shape[1], device=y.device).view(1, -1, 1, 1), "arange"),
        (lambda y: y + torch.eye(y.shape[1], dtype=y.dtype, device=y.device).mean(0).view(1, -1, 1, 1), "eye"),
        (place_codes, "arange"),
        (lambda y: y + torch.arange(y.shape[2], device=y.device).view(1, 1, -1, 1), None),
        (lambda y: y + torch.ones(y.shape[1], 1, 1, dtype=y.dtype, device=y.device), None),
    ],
)  # fmt: skip
def test_values_computed_from_the_number_of_channels_are_noted(what, name):
    group = trace_between(what)
    assert group.frozen is None
    assert group.note.startswith(f"values computed from the number of channels ({name})" if name else "")
    assert bool(group.note) == bool(name)
