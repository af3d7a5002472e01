"""The heuristics: each gives the shape that its name says, at the budget."""

import itertools

import pytest
import torch

from autoslim import build_model, trace_channels
from autoslim.budget import Budget
from autoslim.costs import make_cost
from autoslim.errors import BudgetError, ConfigError
from autoslim.graph import ChannelGraph
from autoslim.search import METHODS, Bottleneck, Equal, Flat, RampUp, Space, WideInside
from autoslim.search._shaped import ShapedSearch, fit_shape
from autoslim.search.blocks import find_inside
from autoslim.testing import check_search_method
from autoslim.testing.search import LinearCost, Problem

SHAPES = ("flat", "ramp-up", "ramp-down", "hourglass", "bottleneck", "wide-inside", "equal")
every_shape = pytest.mark.parametrize("name", SHAPES)


def make_row(*names: str, size: int = 64, cheap: float = 1.0) -> Problem:
    """Equal groups that cost a unit per channel."""
    space = Space({name: tuple(range(1, size + 1)) for name in names}, dict.fromkeys(names, 1))
    return Problem(space, {"macs": LinearCost(dict.fromkeys(names, cheap))}, dict.fromkeys(names, 1.0))


@every_shape
def test_the_contract_of_a_search_method(name: str):
    check_search_method(METHODS[name]())


def test_shapes_across_the_network():
    row = make_row("a", "b", "c", "d", "e")
    found = {name: list(row.search(METHODS[name](), "macs<=50%")[0][0].widths.values()) for name in SHAPES[:4]}
    assert found["flat"] == [32] * 5
    assert found["ramp-up"] == sorted(found["ramp-up"])
    assert found["ramp-up"][-1] == pytest.approx(4 * found["ramp-up"][0], abs=4)
    assert found["ramp-down"] == found["ramp-up"][::-1]
    assert found["hourglass"] == found["hourglass"][::-1]
    assert found["hourglass"][0] > found["hourglass"][1] > found["hourglass"][2]
    assert {sum(widths) for widths in found.values()} <= {158, 159, 160}


def test_flat_is_about_channels_not_about_shares():
    space = Space({"a": tuple(range(1, 17)), "b": tuple(range(1, 65))}, {"a": 1, "b": 1})
    problem = Problem(space, {"macs": LinearCost({"a": 1.0, "b": 1.0})}, {"a": 1.0, "b": 1.0})
    assert dict(problem.search(Flat(), "macs<=20")[0][0].widths) == {"a": 10, "b": 10}
    assert dict(problem.search(Flat(), "macs<=40")[0][0].widths) == {"a": 16, "b": 24}


def test_shapes_inside_blocks():
    row = make_row("stem", "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.conv2")
    narrow = row.search(Bottleneck(), "macs<=50%")[0][0].widths
    assert narrow["stem"] > 3.5 * narrow["layer1.0.conv1"]
    assert narrow["layer2.0.conv2"] > 3.5 * narrow["layer2.0.conv1"]
    wide = row.search(WideInside(), "macs<=50%")[0][0].widths
    assert wide["layer1.0.conv1"] > 5 * wide["stem"]
    assert len(set(row.search(Equal(), "macs<=50%")[0][0].widths.values())) == 1


def test_the_inside_of_networks_by_their_names():
    """Groups of ResNet-50, MobileNet v2 and VGG, as the trace names them."""
    blocks = [(stage, number) for stage, count in ((1, 3), (2, 4)) for number in range(count)]
    inner = [f"layer{stage}.{number}.conv{which}" for stage, number in blocks for which in (1, 2)]
    outer = ["layer1.0.conv3", "layer2.0.conv3"]
    names = ["conv1", *inner[:2], outer[0], *inner[2:8], outer[1], *inner[8:], "fc"]
    found = find_inside(names)
    assert list(found) == inner
    assert (found["layer1.0.conv2"], found["layer1.2.conv1"], found["layer2.0.conv1"]) == ("conv1", *outer[:1] * 2)
    assert found["layer2.3.conv1"] == "layer2.0.conv3"
    names = ["features.0.0", "features.1.conv.1", "features.2.conv.0.0", "features.2.conv.2", "features.3.conv.0.0"]
    assert find_inside([*names, "features.18.0", "classifier.1"]) == {
        "features.2.conv.0.0": "features.1.conv.1",
        "features.3.conv.0.0": "features.2.conv.2",
    }
    assert find_inside(["features.0", "features.3", "features.6", "classifier.0", "classifier.3"]) == {}


def test_the_inside_of_a_traced_network():
    graph = trace_channels(build_model("zoo:resnet_digits"), torch.zeros(1, 1, 8, 8))
    assert find_inside([group.name for group in graph.groups]) == {
        "stage1.conv1": "stem",
        "stage2.conv1": "stem",
        "stage3.conv1": "stage2.conv2",
    }


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return trace_channels(build_model("zoo:mobilenet_small"), torch.zeros(1, 3, 32, 32))


@every_shape
def test_a_real_network_meets_its_budget_within_one_percent(name: str, graph: ChannelGraph):
    space = Space.of(graph.groups)
    costs = {"macs": make_cost("macs", graph)}
    problem = Problem(space, costs, {group: 1.0 for group in space.free})
    for find in problem.search(METHODS[name](), "macs<=50%", "macs<=25%")[0]:
        graph.check(find.widths)
        assert 0.99 < find.costs["macs"] / find.budget.limits[0].absolute(problem.base) <= 1


def test_wider_budgets_give_wider_networks_until_the_widest():
    row = make_row("a", "b", "c", "d")
    for name in SHAPES:
        found = row.search(METHODS[name](tolerance=0), *(f"macs<={share}%" for share in range(10, 101, 10)))[0]
        costs = [find.costs["macs"] for find in found]
        assert costs == sorted(costs)
        assert found[-1].widths == row.space.widest
        assert all(most - cost < 1 for cost, most in zip(costs, itertools.count(25.6, 25.6)))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("flat", {"tolerance": 1.0}, "Flat: tolerance=1.0; expected 0 or more, below 1. Pass for instance 0.01."),
        ("ramp-up", {"times": 1.0}, "RampUp: times=1.0; expected above 1, at most 1000. Pass for instance 4."),
        ("bottleneck", {"times": 2.0}, "Bottleneck: times=2.0; expected 0.01 to 1. Leave it out for the default."),
        ("wide-inside", {"times": 0.5}, "WideInside: times=0.5; expected 1 to 100. Leave it out for the default."),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, float], message: str):
    with pytest.raises(ConfigError) as error:
        METHODS[name](**settings)
    assert str(error.value) == message


def test_under_a_latency_they_take_candidates(graph: ChannelGraph):
    """A runtime may be slow at the widths between."""
    space = Space.of(graph.groups)
    problem = Problem(space, {"latency": make_cost("macs", graph)}, {group: 1.0 for group in space.free})
    ((found,), _) = problem.search(METHODS["ramp-up"](), "latency<=50%")
    assert found.widths != space.widest
    assert all(found.widths[name] in space.candidates[name] for name in space.free)


def test_a_cost_that_falls_with_a_width_is_told():
    row = make_row("a", "b")
    cost = LinearCost({"a": -1.0, "b": 0.1}, 100.0)
    with pytest.raises(BudgetError, match=r"no sub-network holds it|no network of this shape holds it"):
        RampUp().search(row.space, {"macs": cost}, [Budget.parse("macs<=20")], row.scorer(), base={"macs": 100.0})


def test_a_weight_of_nothing_is_refused():
    row = make_row("a")
    assert isinstance(Flat(), ShapedSearch)
    with pytest.raises(BudgetError, match="weight 0"):
        fit_shape(row.space, {"a": 0.0}, lambda widths: 1.0, tolerance=0.01)
