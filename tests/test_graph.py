"""Widths, candidates and what follows from them."""

import json

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoslim import Widths, make_cost, trace_channels
from autoslim.candidates import make_candidates
from autoslim.errors import UnknownNameError, WidthsError
from autoslim.extract import extract_network, narrow_graph
from autoslim.graph import ChannelGraph
from autoslim.testing.random_cnn import RandomCNN


@pytest.fixture(scope="module")
def graph():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 48, 1), nn.Flatten(), nn.Linear(432, 5)
    )
    return trace_channels(model, torch.zeros(1, 3, 5, 5))


@given(atoms=st.integers(1, 400), atom=st.integers(1, 12))
def test_candidates_are_whole_atoms_up_to_the_size(atoms, atom):
    size = atoms * atom
    candidates = make_candidates(size, atom)
    assert candidates[-1] == size
    assert list(candidates) == sorted(set(candidates))
    assert all(width % atom == 0 and width >= atom for width in candidates)
    assert candidates[0] >= min(0.15 * size, size)
    assert len(candidates) <= 13


def test_candidates_prefer_multiples_of_eight():
    assert make_candidates(96, 1) == (16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96)
    assert make_candidates(16, 1) == (4, 8, 12, 16)
    assert make_candidates(8, 1) == (2, 4, 6, 8)
    assert make_candidates(58, 29) == (29, 58)
    assert make_candidates(96, 1, divisor=32) == (32, 64, 96)
    assert make_candidates(100, 1, divisor=32) == (32, 64, 96, 100)
    assert make_candidates(12, 6, divisor=4) == (12,)


def test_extremes_and_uniform(graph):
    assert dict(graph.max_widths()) == {"0": 32, "2": 48, "4": 5}
    assert dict(graph.min_widths()) == {"0": 8, "2": 8, "4": 5}
    assert dict(graph.uniform_widths(0.3)) == {"0": 10, "2": 14, "4": 5}
    assert graph.uniform_widths(1.0) == graph.max_widths()
    for ratio in (0.0, 1.1):
        with pytest.raises(WidthsError, match="outside"):
            graph.uniform_widths(ratio)


def test_random_widths_are_seeded_and_independent(graph):
    assert graph.random_widths(seed=4) == graph.random_widths(seed=4)
    drawn = {tuple(graph.random_widths(seed).values()) for seed in range(60)}
    assert {w[0] for w in drawn} == {8, 16, 24, 32}
    assert {w[1] for w in drawn} == {8, 16, 24, 32, 40, 48}
    assert len(drawn) > 15


def test_selection_names_what_is_kept(graph):
    chosen = graph.selection(Widths({"0": 3, "2": 2, "4": 5}))
    assert chosen["0.weight"][0].tolist() == [0, 1, 2]
    assert chosen["2.weight"][1].tolist() == [0, 1, 2]
    assert chosen["1.running_var"][0].tolist() == [0, 1, 2]
    assert chosen["4.weight"][1].tolist() == list(range(18))  # 9 columns for each channel of a flattened 3x3 map
    assert set(chosen) == {f"{m}.{t}" for m in "02" for t in ("weight", "bias")} | {"4.weight"} | {
        f"1.{t}" for t in ("weight", "bias", "running_mean", "running_var")
    }


def test_attributes_follow(graph):
    values = graph.attributes(Widths({"0": 3, "2": 2, "4": 5}))
    assert values["0"] == {"out_channels": 3}
    assert values["1"] == {"num_features": 3}
    assert values["2"] == {"out_channels": 2, "in_channels": 3}
    assert values["4"] == {"out_features": 5, "in_features": 18}


def test_costs_of_one_and_of_many_agree(graph):
    widths = [graph.random_widths(seed) for seed in range(5)]
    table = torch.tensor([list(w.values()) for w in widths]).numpy()
    for name in ("macs", "params", "memory", "flops"):
        cost = make_cost(name, graph)
        assert [cost(w) for w in widths] == cost.many(widths).tolist() == cost.many(table).tolist()
        assert cost.many([]).shape == (0,)
    wide = make_cost("memory", graph)(graph.max_widths())
    assert wide == 3 * 9 * 32 + 32 + 64 + 32 * 48 + 48 + 432 * 5 + 5 + 32 * 9 + 48 * 9 + 5


def test_costs_refuse_what_does_not_fit(graph):
    cost = make_cost("macs", graph)
    with pytest.raises(WidthsError, match=r"shape \(1, 2\); expected \[N, 3\]"):
        cost.many(torch.ones(1, 2, dtype=torch.int64).numpy())
    with pytest.raises(WidthsError, match="not whole atoms"):
        cost.many(torch.tensor([[33, 48, 5]]).numpy())
    with pytest.raises(UnknownNameError) as error:
        make_cost("mac", graph)
    assert str(error.value) == "Unknown cost 'mac'. Closest: macs."


def test_unfitting_widths_are_told_in_four_parts(graph):
    with pytest.raises(
        WidthsError, match=r"`4`: width 3, but the group is frozen at 5 \(the network's output\)\. Use 5\."
    ):
        graph.check({"0": 32, "2": 48, "4": 3})
    with pytest.raises(WidthsError, match="Unknown channel group 'conv'"):
        graph.check({**graph.max_widths(), "conv": 3})
    with pytest.raises(UnknownNameError, match="Unknown channel group 'zero'"):
        graph.group("zero")


def test_a_graph_prints_itself(graph):
    assert str(graph).splitlines()[1].split() == ["0", "32", "/", "1", "8", "16", "24", "32"]
    assert "frozen: the network's output" in str(graph)


# What the user asks of groups -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet():
    return trace_channels(torchvision.models.resnet18(), torch.zeros(1, 3, 32, 32))


def names(graph, *, frozen: str) -> set[str]:
    return {group.name for group in graph.groups if group.frozen == frozen}


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("layer1.0.conv1", {"conv1", "layer1.0.conv1"}),  # what it reads and what it makes
        ("layer1.0", {"conv1", "layer1.0.conv1"}),
        ("layer1.?", {"conv1", "layer1.0.conv1", "layer1.1.conv1"}),
        ("layer*.1.bn1", {f"layer{n}.1.conv1" for n in (1, 2, 3, 4)}),
        ("layer4", {"layer3.0.conv2", "layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1"}),
    ],
)
def test_layers_are_frozen_by_name_or_glob(resnet, pattern, frozen):
    kept = resnet.freeze(pattern, reason="mine")
    assert names(kept, frozen="mine") == frozen
    assert all(kept.group(name).candidates == (kept.group(name).size,) for name in frozen)
    assert names(resnet.freeze(pattern), frozen="kept by the user") == frozen
    assert kept.group("fc").frozen == "the network's output"
    widths = kept.min_widths()
    cut = kept.selection(widths)
    if pattern == "layer1.0.conv1":
        assert "layer1.0.conv1.weight" not in cut  # the layer keeps its shape
        assert widths["layer1.1.conv1"] < 64


def test_frozen_groups_keep_their_reason_and_groups_are_frozen_with_one_each(resnet):
    assert resnet.freeze("fc").group("fc").frozen == "the network's output"
    assert resnet.freeze({"conv1": "why"}).group("conv1").frozen == "why"
    with pytest.raises(UnknownNameError, match="Unknown channel group 'conv9'"):
        resnet.freeze({"conv9": "why"})
    with pytest.raises(UnknownNameError, match=r"'layer5\.0'\. Closest: layer\d\.0.*Give a module's path or a glob"):
        resnet.freeze("layer5.0")


def test_limits_bind_what_a_layer_makes(resnet):
    limited = resnet.limit("layer4.*", min=64, divisor=16)
    for group in limited.groups:
        if group.name.startswith("layer4"):
            assert group.candidates[0] == 64
            assert group.candidates[-1] == 512
            assert all(width % 16 == 0 for width in group.candidates)
        else:
            assert group == resnet.group(group.name)
    assert limited.limit("*.conv1", divisor=128).group("layer4.0.conv1").candidates == (128, 256, 384, 512)


def test_a_limit_says_which_whole_atoms_are_allowed(resnet):
    allowed = {
        (): list(range(1, 65)),
        (("min", 20),): list(range(20, 65)),
        (("divisor", 8),): [8, 16, 24, 32, 40, 48, 56, 64],  # its candidates are those without a limit
        (("min", 20), ("divisor", 24)): [24, 48, 64],
    }
    for limit, widths in allowed.items():
        limited = resnet.limit("conv1", **dict(limit))
        assert list(limited.group("conv1").allowed) == widths
        assert ChannelGraph.from_json(json.loads(json.dumps(limited.to_json()))) == limited
    assert "least" not in json.dumps(resnet.to_json())  # a run that was started before still fits


def test_a_limit_without_a_choice_freezes_or_is_refused(resnet):
    limited = resnet.limit("*", min=200)
    assert limited.group("conv1").frozen == "no width below 64 meets the limit min=200"
    assert limited.group("conv1").candidates == (64,)
    assert limited.group("layer3.0.conv1").candidates[:2] == (200, 208)
    with pytest.raises(WidthsError) as error:
        resnet.limit("layer1.0.conv1", min=65, divisor=16)
    assert str(error.value) == (
        "limit('layer1.0.conv1', min=65, divisor=16) leaves `layer1.0.conv1` no choice: expected a multiple of 16 from "
        "65 to below its 64 channels. Give a smaller min or divisor, or freeze the group."
    )
    with pytest.raises(WidthsError, match="expected a multiple of 128 from 1 to below its 64"):
        resnet.limit("layer1", divisor=128)
    with pytest.raises(WidthsError, match="divisor=0; expected whole numbers of 1 or more"):
        resnet.limit("layer1", divisor=0)
    with pytest.raises(UnknownNameError, match=r"group 'layer4\.0\.bn1'\. Closest: layer4\.0"):
        resnet.limit("layer4.0.bn1", min=64)


def test_atoms_are_whole_under_a_divisor():
    model = nn.Sequential(nn.Conv2d(3, 60, 1), nn.Conv2d(60, 60, 1, groups=10), nn.Conv2d(60, 4, 1))
    graph = trace_channels(model, torch.zeros(1, 3, 2, 2))
    assert graph.group("0").atom == 6
    assert graph.limit("1", divisor=4).group("0").candidates == (12, 24, 36, 48, 60)


@pytest.mark.parametrize("seed", range(3))
def test_the_graph_of_what_is_extracted_extracts_on(seed):
    """Twice narrowed is once narrowed; costs and shapes are those of the network there is."""
    kinds = ["inverted", "dense", "concat", "split", "shuffle", "residual", "squeeze"]
    model = RandomCNN([(kinds[(seed + at) % 7], 8) for at in range(3)], seed=seed).eval()
    graph = trace_channels(model, torch.zeros(1, 3, 16, 16))
    middle = graph.random_widths(seed)
    narrow = Widths({g.name: min(g.candidates[0], middle[g.name]) for g in graph.groups})
    small, own = extract_network(model, graph, middle), narrow_graph(graph, middle)
    assert own.max_widths() == middle
    assert own.parameters == tuple((name, tuple(p.shape)) for name, p in small.named_parameters())
    assert make_cost("macs", own)(narrow) == make_cost("macs", graph)(narrow)
    twice, once = extract_network(small, own, narrow), extract_network(model, graph, narrow)
    wanted = once.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in twice.state_dict().items())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(twice(x), once(x))
