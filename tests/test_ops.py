"""Every operator rule, from its own example: traced without an unknown, equal in place, extracted and masked."""

import pytest
import torch
from torch import nn

from autoslim import extract_network, trace_channels
from autoslim.ops import RULES, find_rule
from autoslim.ops._base import Rule, register
from autoslim.testing.networks import check_subnetwork, randomise_


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
    assert find_rule(torch.ops.aten.cumsum.default) is None


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
