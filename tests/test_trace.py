"""The equality everything stands on, over random networks: in place == extracted == masked, cost == counted."""

from collections import UserDict
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from autoslim import ChannelGraph, Supernet, extract_network, make_cost, trace_channels
from autoslim.errors import ModelError, UnknownNameError
from autoslim.testing.networks import any_widths, check_subnetwork, outputs, randomise_
from autoslim.testing.random_cnn import BLOCKS, RandomCNN
from autoslim.widths import Widths

INPUT = (torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)
networks = st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(3, 9)), min_size=1, max_size=5)


def check_full_width(model, graph, x):
    """Nothing has changed, bit for bit: not in place, and not in what is extracted."""
    net = Supernet(model, graph)
    with net.at(graph.max_widths()):
        assert torch.equal(net(x), model(x))
    small = extract_network(model, graph, graph.max_widths())
    assert torch.equal(small(x), model(x))
    assert {n: p.shape for n, p in small.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}


def check_partition(graph):
    """Groups partition the slots that they own."""
    for axis in graph.axes:
        for index, group in enumerate(graph.groups):
            atoms = axis.atom[axis.owner == index]
            assert len(atoms) % group.atoms == 0  # every atom has equally many slots on every axis
            assert sorted(set(atoms.tolist())) in ([], list(range(group.atoms)))


def check_random_network(blocks, flatten, seed):
    model = randomise_(RandomCNN(blocks, flatten=flatten, seed=seed)).eval()
    graph = trace_channels(model, INPUT)
    assert not [g.frozen for g in graph.groups if g.frozen and ("rule" in g.frozen or "follow" in g.frozen)]
    check_full_width(RandomCNN(blocks, flatten=flatten, seed=seed).eval(), graph, INPUT[0].float())
    check_partition(graph)
    masked = not any(g.note for g in graph.groups)
    assert masked == ("normed" not in [name for name, _ in blocks])
    for widths in (graph.min_widths(), any_widths(graph, seed), graph.random_widths(seed)):
        check_subnetwork(model, graph, widths, INPUT, masked=masked)
        small = extract_network(model, graph, widths)
        assert make_cost("params", graph)(widths) == sum(p.numel() for p in small.parameters())
        assert make_cost("macs", graph)(widths) <= make_cost("macs", graph)(graph.max_widths())
        small.train()(*INPUT)


random_networks = given(blocks=networks, flatten=st.booleans(), seed=st.integers(0, 10_000))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@random_networks
@example(blocks=[(name, 7) for name in BLOCKS], flatten=True, seed=1)
@example(blocks=[(name, 7) for name in BLOCKS if name != "normed"], flatten=False, seed=2)
def test_random_networks_whole_in_place_extracted_masked_and_counted_agree(blocks, flatten, seed):
    check_random_network(blocks, flatten, seed)


@pytest.mark.nightly
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@random_networks
def test_many_random_networks_agree(blocks, flatten, seed):
    check_random_network(blocks, flatten, seed)


def test_masking_changes_the_output():
    """The equalities above would hold for a network that ignores its channels."""
    model = randomise_(RandomCNN([("inverted", 8), ("squeeze", 4), ("concat", 9)])).eval()
    graph = trace_channels(model, INPUT)
    small = extract_network(model, graph, graph.min_widths())
    assert (outputs(model, INPUT)[0] - outputs(small, INPUT)[0]).abs().max() > 1e-3


def test_check_subnetwork_can_fail():
    model = randomise_(RandomCNN([("residual", 6)])).eval()
    graph = trace_channels(model, INPUT)
    groups = [g.name for g in graph.groups if g.frozen is None]
    wrong = graph.freeze({groups[0]: "on purpose"})  # now the widths say one thing and the selection another
    widths = Widths({**wrong.max_widths(), groups[1]: 1})
    check_subnetwork(model, wrong, widths, INPUT)
    off = ChannelGraph.from_json({**graph.to_json(), "macs": graph.to_json()["macs"][1:]})
    with pytest.raises(AssertionError):
        check_subnetwork(model, off, off.min_widths(), INPUT)


TORCHVISION = [
    "mobilenet_v2", "resnet18", "vgg11_bn", "mnasnet0_5", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121",
    "googlenet", "resnext50_32x4d", "mobilenet_v3_small",
]  # fmt: skip
LONG = {"densenet121", "vgg11_bn", "resnext50_32x4d", "googlenet", "efficientnet_b0"}


def build(name: str) -> nn.Module:
    if name.startswith("timm:"):
        return timm.create_model(name[5:], num_classes=10)
    options = {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, num_classes=10, **options)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in [*TORCHVISION, "timm:mobilenetv1_100"]],
)
def test_libraries_networks_agree(name):
    model = randomise_(build(name)).eval()
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    size = 64 if name != "googlenet" else 96
    x = (torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)
    graph = trace_channels(model, x)
    assert graph.notes == ()
    for widths in (graph.min_widths(), any_widths(graph, 3)):
        check_subnetwork(model.eval(), graph, widths, x)
    small = extract_network(model, graph, graph.random_widths(5))
    assert (outputs(model, x)[0] - outputs(small, x)[0]).abs().max() > 1e-9
    out = small.train()(torch.cat([x[0], x[0]]))
    assert (out[0] if isinstance(out, tuple) else out).shape == (2, 10)
    share = make_cost("macs", graph)(graph.min_widths()) / make_cost("macs", graph)(graph.max_widths())
    assert share < (0.3 if "shuffle" in name else 0.12)


def test_googlenets_auxiliary_heads_follow():
    graph = trace_channels(build("googlenet"), torch.zeros(1, 3, 96, 96))
    free = {g.name: g for g in graph.groups if g.frozen is None}
    assert free["aux1.conv.conv"].size == 128
    assert free["aux1.fc1"].size == 1024
    assert any("aux1.conv.conv" in g.layers for g in free.values() if g.name.startswith("inception4a"))


def test_groups_of_mobilenet_v2():
    graph = trace_channels(torchvision.models.mobilenet_v2(), torch.zeros(1, 3, 224, 224))
    free = [g for g in graph.groups if g.frozen is None]
    sizes = [g.size for g in free]
    assert sizes == [32, 16, 96, 24, 144, 144, 32, 192, 192, 192, 64, 384, 384, 384, 384, 96, 576, 576, 576, 160,
                     960, 960, 960, 320, 1280]  # fmt: skip
    assert [(g.name, g.frozen) for g in graph.groups if g.frozen] == [("classifier.1", "the network's output")]
    assert make_cost("macs", graph)(graph.max_widths()) == 300_774_272
    assert make_cost("params", graph)(graph.max_widths()) == 3_504_872


def test_the_model_is_untouched():
    model = RandomCNN([("inverted", 8)]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace_channels(model, INPUT[0].float())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Odd(nn.Module):
    """One module for each thing the trace must freeze, with what it does in `how`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 5, 1)
        self.linear = nn.Linear(16 * 36, 5)
        self.third = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x))
        if self.how == "literal view":
            return self.linear(y.view(-1, 16 * 36))
        if self.how == "softmax":
            y = y.softmax(1)
        if self.how == "mean":
            y = y - y.mean(1, keepdim=True)
        if self.how == "cumsum":
            y = y.cumsum(1)
        if self.how == "pick":
            y = y * y[:, 3:4]
        if self.how == "item":
            y = y * float(x.sum().item())
        if self.how == "halves":
            half = y.shape[1] // 2
            y = torch.cat([y[:, :half], torch.sigmoid(y[:, half:])], 1)
        if self.how == "thirds":
            y = torch.cat([y[:, :5], torch.sigmoid(y[:, 5:])], 1)
        if self.how == "pooled thirds":
            y = torch.cat([y[:, : y.shape[1] // 3], torch.sigmoid(y[:, y.shape[1] // 3 :])], 1)
        if self.how == "attention":
            flat = y.flatten(2)
            y = (torch.bmm(flat.transpose(1, 2), flat).softmax(-1) @ flat.transpose(1, 2)).transpose(1, 2).view_as(y)
        if self.how == "written":
            half = torch.zeros_like(y)
            half[:, : y.shape[1] // 2] = self.third(y)
            y = half
        if self.how == "assert":
            assert x.shape[-1] == 32, "made for 32 pixels"
        if self.how == "fixed":
            y = y + torch.ones(16, 1, 1, device=y.device, dtype=y.dtype)
        return self.second(y).mean((2, 3))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("literal view", "the model's code can't follow: RuntimeError"),
        ("softmax", "a softmax over channels in Odd, test_trace.py:"),
        ("cumsum", "the order of channels matters to aten.cumsum in Odd, test_trace.py:"),
        ("pick", "channels are picked by position in Odd, test_trace.py:"),
        ("thirds", "the model's code can't follow: it takes channels by numbers of its own in Odd, test_trace.py:"),
        ("pooled thirds", "the model's code can't follow: it takes channels by numbers of its own in Odd, test_trace"),
        ("fixed", "the model's code can't follow: it takes channels by numbers of its own in Odd, test_trace.py:"),
        ("attention", "channels of two activations are multiplied and summed (attention) in Odd, test_trace.py:"),
    ],
)
def test_what_cannot_be_followed_is_frozen_with_its_reason(how, reason):
    graph = trace_channels(Odd(how), INPUT[0].float())
    frozen = graph.group("first").frozen
    assert frozen is not None
    assert reason in frozen
    assert len(graph.group("first").candidates) == 1


def test_statistics_over_channels_are_told():
    graph = trace_channels(Odd("mean"), INPUT[0].float())
    group = graph.group("first")
    assert group.frozen is None
    assert group.note.startswith("a statistic over channels (mean) in Odd, test_trace.py:")


def test_halves_of_a_slice_stay_halves():
    graph = trace_channels(Odd("halves"), INPUT[0].float())
    assert graph.group("first").frozen is None
    assert graph.group("first").atom == 2


def test_a_value_that_is_read_is_told():
    (note,) = trace_channels(Odd("item"), INPUT[0].float()).notes
    assert note.startswith("traced as it ran on these very values, for it needs values (")


@pytest.mark.parametrize("how", ["pick", "item", "softmax", "fixed", "halves", "thirds", "literal view", "written"])
def test_odd_networks_agree_all_the_same(how):
    model = randomise_(Odd(how)).eval()
    graph = trace_channels(model, INPUT)
    for widths in (graph.min_widths(), any_widths(graph, 0)):
        check_subnetwork(model, graph, widths, INPUT)


def test_a_model_that_runs_in_eval_mode_only_is_traced_there_and_told():
    class EvalOnly(nn.Sequential):
        def forward(self, x):
            if self.training:
                raise RuntimeError("no training here")
            return super().forward(x)

    graph = trace_channels(EvalOnly(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)), INPUT[0].float())
    assert graph.notes == ("train mode was not traced: RuntimeError: no training here",)
    assert graph.group("0").frozen is None


def test_a_model_that_fails_is_told_with_its_shapes():
    with pytest.raises(ModelError) as error:
        trace_channels(nn.Sequential(nn.Conv2d(4, 8, 3)), torch.zeros(1, 3, 8, 8))
    assert "Sequential.forward fails on inputs of shape (1, 3, 8, 8): RuntimeError" in str(error.value)
    assert "Give such example inputs." in str(error.value)


def test_any_error_of_the_models_own_is_told():
    with pytest.raises(
        ModelError, match=r"Odd\.forward fails on inputs of shape .*: AssertionError: made for 32 pixels"
    ):
        trace_channels(Odd("assert"), INPUT[0].float())


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ModelError, match=r"^ReLU has no parameters; expected a network\."):
        trace_channels(nn.ReLU(), torch.zeros(1, 3))


def test_shared_weights_stay_shared():
    first = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), first, nn.ReLU(), first, nn.Conv2d(8, 4, 1))
    graph = trace_channels(model, INPUT[0].float())
    small = extract_network(model, graph, Widths({**graph.max_widths(), "0": 3}))
    assert small[1] is small[3]
    assert small[1].weight.shape == (3, 3, 3, 3)
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    tied[2].weight = tied[0].weight
    graph = trace_channels(tied, torch.zeros(1, 6))
    small = extract_network(tied, graph, graph.min_widths())
    assert small[2].weight is small[0].weight


def test_json_round_trip():
    graph = trace_channels(RandomCNN([("concat", 8), ("grouped", 4)]), INPUT[0].float())
    again = ChannelGraph.from_json(graph.to_json())
    assert again == graph
    with pytest.raises(ModelError, match="Not a channel graph"):
        ChannelGraph.from_json({**graph.to_json(), "_version": 99})


def test_inputs_of_the_wrong_number_are_told():
    with pytest.raises(ModelError, match=r"forward fails on inputs of shape \(1, 3, 6, 6\), \(1, 3, 6, 6\): TypeError"):
        trace_channels(Odd(""), (INPUT[0][:1].float(), INPUT[0][:1].float()))


def quantised() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    kind = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    return model.append(kind())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(8, 1)), r"`0` \(LazyConv2d\) is lazy: it has no weights yet\."),
        (lambda: torch.compile(Odd("")), r"^OptimizedModule is compiled; expected a plain module\."),
        (quantised, r"`1` \(Linear\) is quantised: its weights are packed\."),
    ],
)
def test_modules_that_hide_their_weights_are_refused(make, told):
    with pytest.raises(ModelError, match=told):
        trace_channels(make(), INPUT[0].float())


@pytest.mark.filterwarnings("ignore")  # scripting is on its way out
def test_a_scripted_module_is_refused():
    with pytest.raises(ModelError, match="is scripted: its code can't be followed"):
        trace_channels(torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1))), INPUT[0].float())


@pytest.mark.parametrize(("policy", "atom"), [("slots", 8), ("groups", 4)])
def test_the_policy_of_a_grouped_convolution_can_be_given(policy, atom):
    layers = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=8, padding=1), nn.Conv2d(32, 4, 1)
    model = randomise_(nn.Sequential(*layers)).eval()
    graph = trace_channels(model, INPUT, grouped={"1": policy})
    assert graph.group("0").atom == atom
    check_subnetwork(model, graph, any_widths(graph, 1), INPUT)
    with pytest.raises(ModelError, match=r"grouped\['1'\] is 'slot'; expected 'slots'"):
        trace_channels(model, INPUT, grouped={"1": "slot"})
    with pytest.raises(UnknownNameError, match=r"Unknown grouped convolution 'conv\*'\. Known: 1\."):
        trace_channels(model, INPUT, grouped={"conv*": "slots"})
    turned = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ConvTranspose2d(32, 32, 2, groups=8), nn.Conv2d(32, 4, 1)).double()
    for pattern in ("1", "*"):
        with pytest.raises(ModelError, match="gives `1` 'slots', but it is a transposed convolution; expected"):
            trace_channels(turned, INPUT, grouped={pattern: "slots"})
    assert trace_channels(turned, INPUT, grouped={"*": "slots", "1": "groups"}).group("0").atom == 4
    assert trace_channels(model, INPUT, grouped={"1": "slots", "*": "groups"}).group("0").atom == 4
    with pytest.raises(ModelError, match="no convolution has groups; expected one"):
        trace_channels(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).double(), INPUT, grouped={"*": "slots"})


def test_a_transposed_convolution_loses_groups_down_to_the_last():
    layers = nn.Conv2d(3, 32, 1), nn.ConvTranspose2d(32, 16, 2, stride=2, groups=4), nn.Conv2d(16, 4, 1)
    model = randomise_(nn.Sequential(*layers)).eval()
    graph = trace_channels(model, INPUT)
    assert (graph.group("0").atom, graph.group("0").frozen) == (8, None)
    for size in (8, 16, 32):
        check_subnetwork(model, graph, graph.max_widths().replace({"0": size}), INPUT)


def test_a_group_norm_of_one_channel_each_loses_groups_as_channels_go():
    model = randomise_(nn.Sequential(nn.Conv2d(3, 16, 1), nn.GroupNorm(16, 16), nn.Conv2d(16, 4, 1))).eval()
    graph = trace_channels(model, INPUT)
    assert (graph.group("0").atom, graph.group("0").frozen) == (1, None)
    check_subnetwork(model, graph, graph.max_widths().replace({"0": 5}), INPUT)
    small = extract_network(model, graph, graph.max_widths().replace({"0": 5}))
    assert (small[1].num_groups, small[1].num_channels) == (5, 5)


class Table(nn.Module):
    """Channels choose rows of a table, whose mean is taken over as many places as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 4)
        self.table, self.rows = nn.Parameter(torch.randn(10, 6)), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return self.head(y) + self.rows(self.table[(y.sigmoid() * 9).long()]).mean(1)


def test_channels_that_are_an_index_stay():
    graph = trace_channels(Table().double(), INPUT)
    assert graph.group("conv").frozen.startswith("an index of as many places as there are channels")


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y = y if self.last is None else y + self.last
        self.last = y.detach()
        return self.head(y)


def test_a_network_that_remembers_is_told():
    with pytest.raises(
        ModelError, match=r"^Remembers does not run twice as it was traced: .* let it begin each pass anew"
    ):
        trace_channels(Remembers().double(), (INPUT[0][:1],))


def test_a_network_that_can_not_be_copied_is_told():
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    model.lock = Lock()
    with pytest.raises(
        ModelError, match=r"^Sequential can't be copied, .* cannot pickle '_thread\.lock'.* __deepcopy__\.$"
    ):
        trace_channels(model.double(), INPUT)


def test_the_example_is_left_as_it_was():
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x.sub_(0.5))) if x.sum().item() < 1e9 else x  # values: it runs on the processor

    x = torch.rand(1, 3, 4, 4)
    before = x.clone()
    trace_channels(Scales(), x)
    assert torch.equal(x, before)


class Own(nn.Module):
    """Integers of its own in all places where a network may keep them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.dim, self.cut, self.parts = how, 12, 5, [5, 7]
        self.into, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 5, 1)
        self.left, self.right = nn.Conv2d(5, 6, 1), nn.Conv2d(7, 6, 1)
        self.filter = nn.Parameter(torch.randn(1, 1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.into(x)
        if self.how == "view":
            y = y.view(-1, self.dim, 36).view(-1, self.dim, 6, 6)
        if self.how == "halves":
            left, right = y[:, : self.dim // 2], y[:, self.dim // 2 :]
            y = torch.cat([right, left], 1)
        if self.how == "split":
            left, right = y.split(self.parts, 1)
            y = torch.cat([self.left(left), self.right(right)], 1)
        if self.how == "slice":
            y = torch.cat([self.left(y[:, : self.cut]), self.right(y[:, self.cut :])], 1)
        if self.how == "depthwise":
            y = nn.functional.conv2d(y, self.filter.expand(self.dim, -1, -1, -1), padding=1, groups=self.dim)
        return self.out(y).mean((2, 3))


class Resized(nn.Module):
    """Images of as many pixels as there are channels, by an integer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = 12
        self.into, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.into(x)
        y = y.view(len(y), y.shape[1], -1).view(y.shape)
        return self.out(nn.functional.interpolate(y, self.image_size)).mean((2, 3))


def test_an_image_as_large_as_there_are_channels_keeps_its_size():
    model = randomise_(Resized()).eval()
    graph = trace_channels(model, INPUT)
    assert [g.frozen for g in graph.groups if g.frozen] == ["the network's output"]
    assert "image_size" not in graph.attributes(graph.min_widths()).get("", {})
    check_subnetwork(model, graph, any_widths(graph, 0), INPUT)


@pytest.mark.parametrize("how", ["view", "halves", "split", "slice", "depthwise"])
def test_integers_of_the_networks_own_follow(how):
    model = randomise_(Own(how)).eval()
    graph = trace_channels(model, INPUT)
    assert [g.frozen for g in graph.groups if g.frozen] == ["the network's output"]
    for seed in range(3):
        check_subnetwork(model, graph, any_widths(graph, seed), INPUT)
    attributes = graph.attributes(graph.min_widths())
    assert ("parts" in attributes.get("", {})) == (how == "split")


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
    ],
)
def test_detectors_take_lists_of_images(name):
    size = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **size).eval()
    graph = trace_channels(model, ([torch.rand(3, 64, 64)],))
    assert sum(g.frozen is None for g in graph.groups) > 30
    small = extract_network(model, graph, graph.min_widths()).eval()
    (found,) = small([torch.rand(3, 64, 64)])
    assert set(found) == {"boxes", "scores", "labels"}
    cost = make_cost("macs", graph)
    assert cost(graph.min_widths()) < 0.2 * cost(graph.max_widths())


class Keeps(nn.Module):
    """Keeps a tensor of its last pass, as LeViT keeps its attention bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)
        self.bias, self.kept = nn.Parameter(torch.randn(1, 1, 6, 6)), {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.setdefault(str(x.device), self.bias * 2)
        return self.second(nn.functional.hardswish(self.first(x) + self.kept[str(x.device)]))


def test_a_network_that_keeps_a_tensor_of_a_pass_with_gradients_is_traced_and_extracted():
    model = randomise_(Keeps()).eval()
    model(*INPUT)
    assert model.kept["cpu"].grad_fn is not None
    graph = trace_channels(model, INPUT)
    assert graph.group("first").frozen is None
    check_subnetwork(model, graph, any_widths(graph, 1), INPUT)
    assert model.kept["cpu"].grad_fn is not None


def test_images_of_another_device_are_taken_along():
    graph = trace_channels(Odd(""), INPUT[0].float().to("meta"))
    assert graph.group("first").frozen is None


def test_a_layers_dilation_that_equals_its_channels_stays():
    layer = nn.Conv1d(16, 16, 3, padding=16, dilation=16, groups=16)
    model = nn.Sequential(nn.Conv1d(3, 16, 1), layer, nn.Conv1d(16, 5, 1)).eval()
    x = torch.randn(2, 3, 64)
    graph = trace_channels(model, x)
    small = extract_network(model, graph, graph.min_widths())
    assert small[1].groups < 16
    assert (small[1].dilation, small[1].padding) == ((16,), (16,))
    check_subnetwork(randomise_(model), graph, graph.min_widths(), (x.double(),))


class Bent(nn.Module):
    """A deformable convolution, whose offsets another one makes, and a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.offset = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 18, 3, padding=1)
        self.bent, self.pair = torchvision.ops.DeformConv2d(16, 32, 3, padding=1), nn.Bilinear(32, 32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.bent(x, self.offset(x)).mean((2, 3))
        return self.pair(x, x)


def test_weights_that_no_rule_knows_cost_what_they_take():
    graph = trace_channels(Bent(), torch.zeros(1, 3, 8, 8))
    spots = 8 * 8
    wanted = spots * (16 * 27 + 18 * 16 * 9 + 32 * 16 * 9) + 10 * 32 * 32
    assert make_cost("macs", graph)(graph.max_widths()) == wanted
    assert graph.notes == ()


class Distances(nn.Module):
    """Distances to prototypes: no product that anybody counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.places = nn.Linear(8, 16), nn.Parameter(torch.randn(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(self.first(x), self.places)


def test_weights_whose_products_are_not_counted_are_noted():
    (note,) = trace_channels(Distances(), torch.zeros(2, 8)).notes
    assert note.startswith("no multiply-accumulates are counted of aten._cdist_forward in Distances, test_trace.py:")


class Inverted(nn.Module):
    """A block that adds its input where it happens to have the shape of its output."""

    def __init__(self, come: int, goes: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(come, 2 * come, 1), nn.ReLU(), nn.Conv2d(2 * come, goes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(x)
        return x + y if x.shape == y.shape else y


@pytest.mark.parametrize(
    ("channels", "frozen"),
    [((16, 24, 24), {"1"}), ((16, 24, 32, 64), {"1", "2", "3"}), ((32, 64, 64, 128), {"1", "3"})],
)
def test_a_block_that_adds_where_shapes_are_equal_keeps_its_widths_apart(channels, frozen):
    blocks = [Inverted(come, goes) for come, goes in pairwise(channels)]
    end = nn.BatchNorm2d(channels[-1]), nn.Conv2d(channels[-1], 4, 1)
    model = randomise_(nn.Sequential(nn.Conv2d(3, channels[0], 1), *blocks, *end)).eval()
    graph = trace_channels(model, INPUT)
    decided = {g.name: g.frozen for g in graph.groups if g.frozen and "decides by widths" in g.frozen}
    assert set(decided) == {f"{block}.block.2" for block in frozen}
    assert all("(Inverted), test_trace.py:" in reason for reason in decided.values())
    assert [g.frozen for g in graph.groups if g.frozen and g.name not in decided] == ["the network's output"]
    for seed in range(10):
        check_subnetwork(model, graph, graph.random_widths(seed), INPUT)


class Branches(nn.Module):
    """Runs a layer at some widths only, or in some passes only."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.passes = how, 0
        self.into, self.norm, self.out = nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64), nn.Conv2d(64, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.into(x)
        self.passes += 1
        if self.how == "first" and y.shape[1] >= 48:
            y = torch.relu(self.norm(y))
        if self.how == "narrow" and y.shape[1] < 48:
            y = torch.relu(y)
        y = self.out(y)
        if self.how == "last" and self.into.weight.shape[0] >= 48:
            y = torch.relu(y)
        return torch.relu(y) if self.how == "every third pass" and self.passes % 3 == 0 else y


@pytest.mark.parametrize("how", ["first", "narrow", "last"])
def test_a_layer_that_runs_at_some_widths_only_freezes_them(how):
    model = randomise_(Branches(how)).eval()
    graph = trace_channels(model, INPUT)
    frozen = graph.group("into").frozen
    assert frozen is not None
    assert frozen.startswith("the model's code can't follow: it decides by widths which operators run in ")
    check_subnetwork(model, graph, graph.min_widths(), INPUT)


def test_a_layer_that_runs_in_some_passes_only_freezes_nothing():
    assert trace_channels(Branches("every third pass"), INPUT[0].float()).group("into").frozen is None


@dataclass
class Features:
    features: torch.Tensor
    scores: torch.Tensor


class Slotted:
    __slots__ = ("features", "scores")

    def __init__(self, features: torch.Tensor, scores: torch.Tensor) -> None:
        self.features, self.scores = features, scores


class Puts(nn.Module):
    """Puts its features out beside its scores, in an object of any kind."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor):
        y = self.first(x)
        return self.kind(features=y, scores=self.third(torch.relu(self.second(y))))


def circle(**outputs: torch.Tensor) -> SimpleNamespace:
    out = SimpleNamespace(**outputs)
    out.itself = [out]
    return out


KINDS = [Features, type("Own", (dict,), {}), UserDict, SimpleNamespace, Slotted, circle]


@pytest.mark.parametrize("kind", [*KINDS, lambda **outputs: [SimpleNamespace(inner=Features(**outputs))]])
def test_outputs_in_objects_of_any_kind_keep_their_channels(kind):
    graph = trace_channels(Puts(kind), INPUT[0].float())
    assert [g.name for g in graph.groups if g.frozen == "the network's output"] == ["first", "third"]
    assert graph.group("second").frozen is None
    assert graph.notes == ()


def test_an_output_without_a_tensor_is_told():
    graph = trace_channels(Puts(lambda **outputs: None), INPUT[0].float())
    assert graph.notes == tuple(
        f"no tensor was found in what the network puts out in {m} mode" for m in ("eval", "train")
    )


class Chance(nn.Module):
    """Integers that are as large as a number of channels: one of them is one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.steps, self.dim, self.image_size = how, 12, 12, 12
        self.into, self.again, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "steps":
            h = torch.zeros(len(x), self.dim, 6, 6, dtype=x.dtype, device=x.device)
            for _ in range(self.steps):
                h = torch.tanh(self.into(x) + self.again(h))
        elif self.how == "temperature":
            h = (self.into(x).view(-1, self.dim, 36) / self.steps).view(-1, self.dim, 6, 6)
        else:
            assert 2 * x.shape[-1] == self.image_size
            h = self.into(x).reshape(len(x), self.dim, 36).unflatten(2, (6, 6))
        return self.out(h).mean((2, 3))


@pytest.mark.parametrize("how", ["steps", "temperature", "checked"])
def test_a_number_that_equals_the_channels_by_chance_stays(how):
    model = randomise_(Chance(how)).eval()
    graph = trace_channels(model, INPUT)
    assert [g.frozen for g in graph.groups if g.frozen] == ["the network's output"]
    assert list(graph.attributes(graph.min_widths())[""]) == ["dim"]
    for widths in (graph.min_widths(), any_widths(graph, 0)):
        check_subnetwork(model, graph, widths, INPUT)


def test_a_transformer_for_images_as_large_as_its_tokens_keeps_its_free_groups():
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)
    graph = trace_channels(model, torch.zeros(1, 3, 32, 32))
    assert [g.name for g in graph.groups if g.frozen is None] == [
        f"encoder.layers.encoder_layer_{i}.mlp.0" for i in (0, 1)
    ]


def test_a_layer_whose_forward_is_called_past_its_hooks_is_known():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.c = nn.Conv2d(16, 4, 1)

        def forward(self, x):
            return self.c.forward(torch.relu(self.d.forward(self.a.forward(x))))

    model = randomise_(Past()).eval()
    graph = trace_channels(model, INPUT)
    assert graph.group("a").frozen is None
    check_subnetwork(model, graph, graph.min_widths(), INPUT)
    assert "forward" not in vars(model.d)
