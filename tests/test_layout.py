"""Networks whose own code needs feature maps in contiguous memory, as `x.view(n, -1)` does: all stages run them so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoslim
from autoslim._tensors import is_channels_last
from autoslim.compare import CompareConfig, compare_methods
from autoslim.costs.latency._meter import Meter
from autoslim.export import Options, export_network
from autoslim.models import build_model
from autoslim.pick import extract_picked, pick_network
from autoslim.pipeline import RunConfig
from autoslim.pipeline._networks import choose_layout
from autoslim.progress import Shown
from autoslim.runtimes import find_runtime
from autoslim.train import TrainConfig

CODE = """
from torch import nn


class Plain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )
        self.head = nn.Linear(16 * 16, num_classes)

    def forward(self, x):
        x = self.layers(x)
        return self.head(x.view(x.size(0), -1))
"""
IMAGES = torch.zeros(2, 1, 8, 8)
QUIET = Shown(quiet=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    place = tmp_path_factory.mktemp("own")
    (place / "plain.py").write_text(CODE)
    return RunConfig(
        model=f"{place / 'plain.py'}:Plain", data="digits", budget=("macs<=60%",), out=str(place / "run"),
        search_images=60, train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=128),
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(config: RunConfig) -> Path:
    return autoslim.run(config, shown=QUIET)


def test_a_network_that_views_its_maps_is_run_in_contiguous_memory_and_that_is_told(done: Path):
    (note,) = [each for each in json.loads((done / "summary.json").read_text())["notes"] if "channels-last" in each]
    assert "plain.py:16 can't run in channels-last memory (view size is not compatible" in note
    assert "Write flatten or reshape there" in note
    assert "plain.py:16 can" in (done / "report.html").read_text()


def test_what_was_found_is_picked_loaded_and_exported(done: Path, tmp_path: Path):
    folder = extract_picked(done, pick_network(done, "macs<=80%"), tmp_path / "picked")
    model = autoslim.load(folder)
    told = export_network(model, torch.rand(4, 1, 8, 8), tmp_path / "net.pt2", to="torch-export", options=Options())
    assert told.max_difference < 1e-5


@pytest.mark.parametrize(
    "methods", [("autoslim", "uniform", "l1", "bn-scale"), pytest.param(("netadapt",), marks=pytest.mark.slow)]
)
def test_it_is_compared_like_any_other(config: RunConfig, tmp_path: Path, methods: tuple[str, ...]):
    run = replace(config, out=str(tmp_path / "compared"))
    result = compare_methods(CompareConfig(run=run, methods=methods, seeds=1), shown=QUIET)
    assert {row["method"].split()[0] for row in result["rows"]} == set(methods)


def test_all_others_are_run_in_channels_last():
    model = build_model("zoo:resnet_digits?width=8", num_classes=10)
    assert choose_layout(model, IMAGES) == (torch.channels_last, "")
    assert all(is_channels_last(weight) for weight in model.parameters() if weight.dim() == 4)


def test_code_that_runs_in_training_alone_is_tried_too():
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out, self.extra = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5), nn.Linear(256, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            out = self.out(y.mean((2, 3)))
            return out + self.extra(y.view(len(y), -1)) if self.training else out

    layout, note = choose_layout(Head(), torch.zeros(2, 3, 8, 8))
    assert layout is torch.contiguous_format
    assert "can't run in channels-last memory (view size is not compatible" in note


def test_what_runs_in_no_layout_is_left_to_the_trace():
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    assert choose_layout(Broken(), IMAGES) == (torch.channels_last, "")


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_what_is_extracted_keeps_the_layout(layout: torch.memory_format):
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 3))
    graph = autoslim.trace_channels(net, torch.zeros(1, 1, 8, 8))
    plain = autoslim.extract_network(net, graph, graph.min_widths()).state_dict()
    small = autoslim.extract_network(net.to(memory_format=layout), graph, graph.min_widths())  # pyright: ignore[reportCallIssue]
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, plain[name])
        if tensor.dim() == 4:
            assert is_channels_last(tensor) == (layout is torch.channels_last), name


def test_latencies_are_measured_as_networks_are_loaded(monkeypatch: pytest.MonkeyPatch):
    """In contiguous memory, whatever they are trained in."""
    seen: list[nn.Module] = []

    def time_networks(runtime: object, models: list[nn.Module], *args: object, **options: object) -> np.ndarray:
        seen.extend(models)
        return np.ones((2, len(models)))

    monkeypatch.setattr("autoslim.costs.latency._meter.time_networks", time_networks)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    graph = autoslim.trace_channels(net, torch.zeros(1, 3, 8, 8))
    meter = Meter(model=net, graph=graph, x=torch.zeros(1, 3, 8, 8), runtime=find_runtime("torch"))
    meter.measure([graph.min_widths()])
    weights = [weight for model in seen for weight in model.parameters() if weight.dim() == 4]
    assert weights
    assert not any(is_channels_last(weight) for weight in weights)
