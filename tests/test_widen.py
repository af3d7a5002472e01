"""Wider networks: the same groups, as the closed forms price them, drawn at the scale of their own initialisers."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from autoslim import extract_network, make_cost, trace_channels, widen_network
from autoslim.errors import ModelError, WidthsError
from autoslim.models import build_model
from autoslim.testing.networks import counted_macs
from autoslim.testing.random_cnn import BLOCKS, RandomCNN

X = (torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)
networks = st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(3, 9)), min_size=1, max_size=5)


def check_wider(model, x, ratio):
    """Re-traces to the same groups, each as much wider; runs in both modes; MACs are the closed form's."""
    graph = trace_channels(model, x)
    wide = widen_network(model, graph, ratio)
    assert type(wide) is type(model)
    again = trace_channels(wide, x)
    assert [(g.name, g.atom, g.frozen is None) for g in again.groups] == [
        (g.name, g.atom, g.frozen is None) for g in graph.groups
    ]
    for old, new in zip(graph.groups, again.groups, strict=True):
        if old.frozen is not None:
            assert new.size == old.size
        else:
            assert old.size <= new.size
            assert abs(new.size - ratio * old.size) <= math.lcm(8, old.atom) / 2
            assert new.size % 8 == 0 or new.size < 32 or old.atom > 1
    atoms = torch.tensor([g.atoms for g in again.groups]).numpy()
    assert counted_macs(wide.eval(), x) == sum(term(atoms) for term in graph.macs)
    small = extract_network(wide, again, graph.max_widths())  # the network as given is one of its sub-networks
    assert {n: p.shape for n, p in small.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}
    for network in (wide, small):
        assert network.eval()(*x).shape == model.eval()(*x).shape
        network.train()(*x)
    return graph, wide


@settings(max_examples=8, deadline=None)
@given(blocks=networks, flatten=st.booleans(), ratio=st.sampled_from([1.25, 1.5, 2.0, 3.0]), seed=st.integers(0, 9999))
@example(blocks=[(name, 7) for name in BLOCKS], flatten=True, ratio=1.5, seed=1)
def test_random_networks_widen(blocks, flatten, ratio, seed):
    model = RandomCNN(blocks, flatten=flatten, seed=seed)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(seed)
    _, wide = check_wider(model, X, ratio)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, old in model.named_parameters():
        new = wide.get_parameter(name).detach()
        if old.dim() > 1 and old.numel() >= 400:
            scale = math.sqrt(old[0].numel() / new[0].numel())
            assert float(new.std()) == pytest.approx(scale * float(old.detach().std()), rel=0.2)
            assert abs(float(new.mean())) < 5 * float(new.std()) / math.sqrt(new.numel())
            assert float(new.abs().max()) < 2 * float(new.std())  # torch's own initialiser is uniform


@pytest.mark.parametrize(
    ("spec", "ratio"),
    [
        ("torchvision:mobilenet_v2", 1.5),
        ("torchvision:shufflenet_v2_x1_0", 1.5),
        pytest.param("timm:efficientnet_b0", 1.5, marks=pytest.mark.slow),
        pytest.param("timm:regnety_002", 2.0, marks=pytest.mark.slow),
    ],
)
def test_known_networks_widen(spec, ratio):
    torch.manual_seed(0)
    graph, wide = check_wider(build_model(spec, num_classes=10), (torch.zeros(2, 3, 64, 64),), ratio)
    free = [group for group in graph.groups if group.frozen is None]
    assert len(free) > len(graph.groups) / 2
    sizes = [make_cost("params", graph)(graph.max_widths()), sum(p.numel() for p in wide.parameters())]
    assert sizes[1] > ratio * sizes[0]


def test_initialisers_are_kept():
    """ResNet-18 draws its convolutions normally, its classifier uniformly; BatchNorm starts at one and zero."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    wide = widen_network(model, trace_channels(model, torch.zeros(1, 3, 32, 32)))
    assert (wide.conv1.out_channels, wide.bn1.num_features, wide.fc.in_features, wide.fc.out_features) == (
        96, 96, 768, 1000,
    )  # fmt: skip
    for name in ("layer1.0.conv1", "layer3.0.conv2", "layer4.1.conv1"):
        old, new = (net.get_submodule(name).weight.detach() for net in (model, wide))
        assert float(new.std()) == pytest.approx(float(old.std()) / math.sqrt(1.5), rel=0.02)
        kurtosis = ((new - new.mean()) / new.std()).pow(4).mean()
        assert float(kurtosis) == pytest.approx(3, abs=0.1)
    head = wide.fc.weight.detach()
    assert float(head.abs().max()) == pytest.approx(1 / math.sqrt(768), rel=0.01)
    assert float(wide.fc.bias.detach().std()) == pytest.approx(float(model.fc.bias.detach().std()), rel=0.1)
    for name, tensor in wide.state_dict().items():
        if ".bn" in name or name.startswith("bn"):
            assert torch.all(tensor == (1 if name.endswith(("weight", "running_var")) else 0)), name


def test_seeds_decide_and_a_trained_network_is_drawn_anew():
    torch.manual_seed(0)
    model = build_model("zoo:resnet_digits?width=8", num_classes=10).to(memory_format=torch.channels_last)
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(widen_network(model, graph).state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert any(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])
    model.train()(torch.randn(8, 1, 8, 8) + 3)  # running statistics differ from channel to channel now
    nn.init.normal_(model.norm.weight, 1, 0.2)
    nn.init.normal_(model.norm.bias)
    nn.init.zeros_(model.stage1.norm2.weight)
    wide = widen_network(model, graph)
    assert wide.norm.weight.eq(1).all()
    assert wide.norm.bias.eq(0).all()
    assert wide.stage1.norm2.weight.eq(0).all()  # constant: that block starts as the identity, and still does
    for name, buffer in wide.named_buffers():
        assert torch.all(buffer == (1 if name.endswith("running_var") else 0)), name
    for name, parameter in wide.named_parameters():
        if parameter.dim() > 1:
            shared = tuple(slice(0, size) for size in model.get_parameter(name).shape)
            assert not torch.equal(parameter[shared], model.get_parameter(name)), name


def test_groups_that_are_kept_stay():
    model = torchvision.models.resnet18(num_classes=4)
    graph = trace_channels(model, torch.zeros(1, 3, 32, 32)).freeze("layer2.*")
    wide = widen_network(model, graph, 2.0)
    for name, module in wide.get_submodule("layer2").named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape == model.get_submodule(f"layer2.{name}").weight.shape
    assert wide.layer3[0].conv1.weight.shape == (512, 128, 3, 3)


class _Table(nn.Module):
    """Code that can follow narrower channels but no wider ones: its table is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_module("conv", nn.Conv2d(3, 16, 1))
        self.table = [torch.ones(1, 1, 1, 1)] * 16

    def forward(self, x):
        y = self.conv(x)
        return y * torch.cat([self.table[i].to(y.device) for i in range(y.shape[1])], 1)


def test_what_can_not_be_widened_is_told():
    model = nn.Sequential(_Table(), nn.Conv2d(16, 4, 1))
    x = torch.zeros(1, 3, 4, 4)
    graph = trace_channels(nn.Sequential(nn.Sequential(nn.Conv2d(3, 16, 1)), nn.Conv2d(16, 4, 1)), x)
    renamed = {"0.0.weight": "0.conv.weight", "0.0.bias": "0.conv.bias"}
    axes = tuple(replace(axis, tensor=renamed.get(axis.tensor, axis.tensor)) for axis in graph.axes)
    patches = tuple(replace(patch, module=patch.module.replace("0.0", "0.conv")) for patch in graph.patches)
    graph = replace(graph, axes=axes, patches=patches)
    with pytest.raises(ModelError, match=r"`0` \(_Table\) fails on inputs .*IndexError.* Freeze the layers"):
        widen_network(model, graph)
    fixed = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1))
    graph = trace_channels(fixed, x)
    fixed[0].requires_grad_(False)
    with pytest.raises(ModelError, match=r"`0.weight` is not trained and differs .* `graph.freeze`"):
        widen_network(fixed, graph)
    assert widen_network(fixed, graph.freeze("0"))[0].weight.equal(fixed[0].weight)
    for ratio in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(WidthsError, match="expected a number above 1"):
            widen_network(fixed, graph, ratio)


def test_any_arguments_that_were_traced_will_do(takes: tuple[nn.Module, tuple[Any, ...]]):
    model, arguments = takes
    graph = trace_channels(model, arguments)
    with pytest.raises(ModelError, match=r"widen_network: .*fails on inputs.*pass them as `example_inputs`"):
        widen_network(model, graph)
    wide = widen_network(model, graph, example_inputs=arguments)
    assert wide.first.out_channels == 24
    assert wide(*arguments).shape == model(*arguments).shape
