"""Widths, candidates and what follows from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoslim import Widths, make_cost, trace_channels
from autoslim.errors import UnknownNameError, WidthsError
from autoslim.graph import make_candidates


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
