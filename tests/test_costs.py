"""Costs: the paper's convention counted by hand, and memory beside what torch allocates."""

import itertools

import pytest
import torch
import torchvision
from torch import nn
from torch.profiler import ProfilerActivity, profile

from autoslim import ChannelGraph, Widths, extract_network, make_cost, trace_channels
from autoslim.costs import COSTS
from autoslim.costs.peak import PeakMemory
from autoslim.errors import ConfigError


class Small(nn.Module):
    """A convolution with a bias, BatchNorm, two average pools, two linear layers, one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.AvgPool2d(2)
        self.inner, self.head = nn.Linear(16, 12, bias=False), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.pool(self.norm(self.conv(x))).mean((2, 3))))


@pytest.fixture(scope="module")
def small() -> ChannelGraph:
    return trace_channels(Small(), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(("conv", "inner"), [(16, 12), (7, 5), (1, 1)])
def test_the_papers_convention_counted_by_hand(small: ChannelGraph, conv: int, inner: int):
    widths = Widths({"conv": conv, "inner": inner, "head": 5})
    standard = {name: make_cost(name, small)(widths) for name in COSTS}
    paper = {name: make_cost(name, small, macs_convention="paper")(widths) for name in COSTS}
    weights = 27 * conv + conv * inner + inner * 5
    put_out = 36 * conv + 9 * conv + conv + inner + 5
    assert paper["params"] == weights + 5
    assert standard["params"] == weights + 5 + conv + 2 * conv  # the convolution's bias, BatchNorm's scale and shift
    assert paper["memory"] == paper["params"] + put_out
    assert standard["memory"] == standard["params"] + put_out
    assert standard["macs"] == 27 * 36 * conv + conv * inner + inner * 5
    assert paper["macs"] == standard["macs"] + 36 * conv + 9 * conv


def test_a_parameter_that_two_modules_use_is_counted_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    graph = trace_channels(Tied(), torch.zeros(1, 6))
    assert make_cost("params", graph, macs_convention="paper")(graph.max_widths()) == 36 + 6 + 6


def test_an_unknown_convention_is_told(small: ChannelGraph):
    with pytest.raises(ConfigError) as error:
        make_cost("macs", small, macs_convention="papers")  # pyright: ignore[reportArgumentType]
    assert str(error.value) == (
        "Macs: macs_convention is 'papers'; expected 'standard' or 'paper'. Leave it out for the standard one."
    )


def allocated(model, x):
    """Bytes torch holds at most while the network runs, by its profiler: weights, input, all it allocates."""
    with torch.no_grad():
        model(x)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            model(x)
    events = sorted(
        (e.start_ns(), e.nbytes()) for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"
    )
    held = list(itertools.accumulate(size for _, size in events))
    return max(held) + 4 * (x.numel() + sum(p.numel() for p in model.parameters()))


@pytest.mark.parametrize(("name", "batch"), [("resnet18", 1), ("resnet18", 4), ("mobilenet_v2", 2), ("densenet121", 2)])
def test_peak_memory_is_what_torch_allocates(name, batch):
    model = torchvision.models.get_model(name).eval()
    graph = trace_channels(model, torch.zeros(1, 3, 96, 96))
    cost = PeakMemory(graph, batch=batch)
    for widths in (graph.max_widths(), graph.uniform_widths(0.5)):
        small = extract_network(model, graph, widths)
        assert cost(widths) == pytest.approx(allocated(small, torch.zeros(batch, 3, 96, 96)), rel=0.1)
    assert cost.many([graph.min_widths(), graph.max_widths()]).tolist() == [
        cost(graph.min_widths()),
        cost(graph.max_widths()),
    ]
    half = PeakMemory(graph, batch=batch, bytes_per_element=2)
    assert half(graph.max_widths()) == pytest.approx(cost(graph.max_widths()) / 2, rel=0.02)
