"""The latency cost: what it predicts, what it remembers, how it is corrected, and what it refuses."""

import json
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from autoslim import Budget, ChannelGraph, Widths, extract_network, make_cost, trace_channels
from autoslim.budget import MEASURED
from autoslim.costs import COSTS, LatencyCost, check_metric, make_latency
from autoslim.costs.latency import draw_widths
from autoslim.errors import BudgetError, ConfigError, RunFolderError, RuntimeFailedError, UnknownNameError, WidthsError
from autoslim.runtimes import RUNTIMES, Runtime
from autoslim.search import Space, check_budgets

IMAGE = torch.zeros(1, 3, 12, 12)
BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "latency.py"


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, groups=64), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 96, 1), nn.ReLU()]
    layers += [nn.Conv2d(96, 48, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)]
    return nn.Sequential(*layers).eval()


def true_ms(model: nn.Module) -> float:
    """A made-up machine: whole vectors of 16 channels, dear depthwise layers, something for every layer."""
    total = 0.05
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            ins, outs = (-(-n // 16) * 16 for n in (module.in_channels, module.out_channels))
            work = outs * (4 if module.groups > 1 else ins) * module.kernel_size[0] ** 2
            total += 2e-5 * work + 2e-4 * module.out_channels
    return total


class FakeRuntime(Runtime):
    """Tells what `true_ms` says, slower and slower; counts the networks that it was given."""

    name: ClassVar[str] = "fake"
    prepared: ClassVar[list[nn.Module]] = []
    speed: ClassVar[list[float]] = [1.0]
    stop_after: ClassVar[list[int]] = [10**9]

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str):
        if len(self.prepared) >= self.stop_after[0]:
            raise KeyboardInterrupt
        self.prepared.append(model)
        ms = true_ms(model)

        def run() -> float:
            self.speed[0] *= 1.0001
            return ms * self.speed[0]

        return run

    def version(self) -> str:
        return "fake 1"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeRuntime]:
    monkeypatch.setitem(RUNTIMES._items, "fake", FakeRuntime)
    for name, value in (("prepared", []), ("speed", [1.0]), ("stop_after", [10**9])):
        monkeypatch.setattr(FakeRuntime, name, value)
    return FakeRuntime


@pytest.fixture(scope="module")
def network() -> tuple[nn.Sequential, ChannelGraph]:
    model = make_network()
    return model, trace_channels(model, IMAGE)


def make_fake(network: tuple[nn.Sequential, ChannelGraph], **options) -> LatencyCost:
    return make_latency(*network, IMAGE, runtime="fake", **{"samples": 48, **options})


# What it predicts -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_a_machine_that_slows_down_is_predicted(network):
    model, graph = network
    cost = make_fake(network)
    held_out = draw_widths(graph, 40, seed=1)
    truth = np.array([true_ms(extract_network(model, graph, widths)) for widths in held_out])
    predicted = cost.many(held_out)
    missed = np.abs(predicted / truth / np.median(predicted / truth) - 1)
    assert np.median(missed) < 0.02
    assert np.quantile(missed, 0.95) < 0.08
    assert spearmanr(predicted, truth).statistic > 0.99
    assert cost.error < 0.03
    assert cost.noise < 1e-3
    assert not cost.noisy


@pytest.mark.usefixtures("fake")
def test_prices_are_the_same_however_they_are_asked_for(network):
    graph, cost = network[1], make_fake(network)
    draws = [graph.random_widths(seed) for seed in range(50)]
    prices = cost.many(draws)
    assert np.array_equal(prices, cost.many(np.array([[w[g.name] for g in graph.groups] for w in draws])))
    np.testing.assert_allclose([cost(widths) for widths in draws], prices, rtol=1e-12)
    assert (np.isfinite(prices) & (prices > 0)).all()
    assert cost.many([]).shape == (0,)
    with pytest.raises(WidthsError):
        cost(graph.max_widths().replace({graph.groups[0].name: 65}))
    with pytest.raises(WidthsError):
        cost.many(np.ones((2, 1), dtype=np.int64))


@pytest.mark.usefixtures("fake")
def test_whole_vectors_more_never_cost_less(network):
    graph, cost = network[1], make_fake(network)
    for group in (group for group in graph.groups if group.frozen is None):
        prices = cost.many([graph.max_widths().replace({group.name: w}) for w in range(16, group.size + 1, 16)])
        assert (np.diff(prices) >= -1e-12).all()


@pytest.mark.usefixtures("fake")
def test_a_search_may_use_it(network):
    graph, cost = network[1], make_fake(network)
    space = Space.of(graph.groups)
    least, most = cost(graph.min_widths()), cost(graph.max_widths())
    check_budgets(space, {"latency": cost}, [Budget.parse(f"latency<={1e3 * (least + most) / 2}us")], {})
    with pytest.raises(BudgetError, match="no sub-network holds it"):
        check_budgets(space, {"latency": cost}, [Budget.parse("latency<=1us")], {})


def test_networks_to_measure_lie_over_the_whole_range(network):
    graph = network[1]
    drawn = draw_widths(graph, 40, seed=3, lowest=0.1)
    assert drawn == draw_widths(graph, 40, seed=3, lowest=0.1) != draw_widths(graph, 40, seed=4, lowest=0.1)
    shares = np.sort(make_cost("macs", graph).many(drawn)) / make_cost("macs", graph)(graph.max_widths())
    np.testing.assert_allclose(shares, np.linspace(0.1, 1, 40), atol=0.12)
    candidates = {group.name: group.candidates for group in graph.groups}
    assert 5 <= sum(any(w[name] not in candidates[name] for name in w) for w in drawn) <= 20


# What it remembers ----------------------------------------------------------------------------------------------------


def test_what_was_measured_is_not_measured_again(network, fake, tmp_path: Path):
    first = make_fake(network, cache=tmp_path)
    assert first.kept is None
    count = len(fake.prepared)
    assert 40 < count < 75
    again = make_fake(network, cache=tmp_path)
    assert len(fake.prepared) == count
    assert again.kept == date.today()
    assert (again.rows, again.many([network[1].random_widths(0)])) == (first.rows, first(network[1].random_widths(0)))
    make_fake(network, cache=tmp_path, threads=2)
    assert len(fake.prepared) == 2 * count
    (measured,) = again.measure([network[1].uniform_widths(0.5)])
    assert len(fake.prepared) == 2 * count + 2, "a found network is always measured"
    assert measured.median == pytest.approx(again.anchor, rel=1e-2)


def test_what_was_kept_and_is_broken_is_told_by_its_file(network, fake, tmp_path: Path):
    make_fake(network, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text("{")
    with pytest.raises(RunFolderError, match=rf"are lost\. Delete {re.escape(str(kept))}"):
        make_fake(network, cache=tmp_path)


def test_measuring_goes_on_where_it_was_cut_off(network, fake, tmp_path: Path):
    fake.stop_after[0] = 20
    with pytest.raises(KeyboardInterrupt):
        make_fake(network, cache=tmp_path)
    fake.stop_after[0] = 10**9
    told: list[tuple[int, int]] = []
    make_fake(network, cache=tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert told[0] == (4, told[-1][1])
    assert told[-1][0] == told[-1][1] <= 48 - 12
    assert len(list(tmp_path.iterdir())) == 1


def test_a_runs_own_copy_is_what_it_goes_on_with(network, fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table, widths = tmp_path / "latency.json", [network[1].random_widths(seed) for seed in range(9)]
    first = make_fake(network, table=table)
    count = len(fake.prepared)
    monkeypatch.setattr("autoslim.costs.latency._meter.describe_machine", lambda: "another")
    again = make_fake(network, table=table)
    assert (first.kept, again.kept) == (None, date.today())
    assert len(fake.prepared) == count
    assert np.array_equal(again.many(widths), first.many(widths))
    first.corrected({widths[0]: 0.5}).save(table)
    corrected = make_fake(network, table=table)
    assert corrected(widths[0]) == pytest.approx(0.5)
    with pytest.raises(
        RuntimeFailedError, match=r"were measured elsewhere \(machine '.+', here 'another'\).*delete the run's"
    ):
        again.measure(widths[:1])
    assert len(fake.prepared) == count
    with pytest.raises(RunFolderError, match="was measured with another threads"):
        make_fake(network, table=table, threads=2)
    monkeypatch.setattr(fake, "version", lambda _: pytest.fail("the runtime is not installed"))
    whole = table.read_text()
    make_fake(network, table=table).save(table)
    assert table.read_text() == whole  # also the machine on which it was measured
    data = json.loads(table.read_text())
    table.write_text(json.dumps({**data, "rows": [{"widths": [1]}]}))
    with pytest.raises(RunFolderError, match="has a row that does not fit"):
        make_fake(network, table=table)


def test_a_program_is_asked_once_for_each_network(network, tmp_path: Path):
    log, script = tmp_path / "log", tmp_path / "measure.py"
    script.write_text(
        f"import sys, os\nopen({str(log)!r}, 'a').write('x')\nprint('ms:', os.path.getsize(sys.argv[1]) / 1e4)\n"
    )
    spec = f"command:{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{onnx}}"
    cost = make_latency(*network, IMAGE, runtime=spec, samples=6, cache=tmp_path / "cache")
    assert log.read_text() == "x" * 6
    wide, found = network[1].max_widths(), network[1].uniform_widths(0.6)
    assert cost.anchor == 1
    assert cost.measure([wide])[0].repeats == 1
    assert log.read_text() == "x" * 6
    first = cost.measure([found])
    assert cost.measure([found]) == first
    assert log.read_text() == "x" * 7
    script.write_text("print('no board')")
    with pytest.raises(RuntimeFailedError, match="no board"):
        make_latency(*network, IMAGE, runtime=spec, samples=4, cache=tmp_path / "other")


# Corrections, and what is refused -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_a_corrected_cost_agrees_where_it_was_measured(network):
    graph, cost = network[1], make_fake(network)
    small, large = graph.uniform_widths(0.4), graph.uniform_widths(0.9)
    once = cost.corrected({small: 1.2 * cost(small)})
    assert once(small) == pytest.approx(1.2 * cost(small))
    assert once(large) == pytest.approx(1.2 * cost(large))
    twice = once.corrected({large: 0.9 * cost(large)})
    assert twice(small) == pytest.approx(1.2 * cost(small))
    assert twice(large) == pytest.approx(0.9 * cost(large))
    assert twice(graph.max_widths()) == pytest.approx(0.9 * cost(graph.max_widths()))
    assert 0.9 < twice(graph.uniform_widths(0.7)) / cost(graph.uniform_widths(0.7)) < 1.2
    with pytest.raises(ConfigError, match="finite number above 0"):
        cost.corrected({small: 0.0})


@pytest.mark.usefixtures("fake")
def test_networks_that_are_predicted_alike_keep_what_was_measured_for_each(network, monkeypatch):
    graph, cost = network[1], make_fake(network)
    monkeypatch.setattr(type(cost.fit), "predict", lambda _, atoms: np.full(len(atoms), 2.0))
    one, other = graph.uniform_widths(0.4), graph.uniform_widths(0.9)
    cost = cost.corrected({one: 1.0, other: 4.0})
    assert cost.many([one, graph.max_widths(), other]).tolist() == pytest.approx([1.0, 2.0, 4.0])


def test_latency_is_a_metric_but_not_a_closed_form(network):
    assert not set(MEASURED) & set(COSTS)
    for name in (*COSTS, *MEASURED):
        check_metric(name)
    with pytest.raises(UnknownNameError, match=r"Unknown cost .latancy.\. Closest: latency"):
        check_metric("latancy")
    with pytest.raises(ConfigError, match=r"expected one of macs, .* Call make_latency\(model, graph, x\)"):
        make_cost("latency", network[1])


@pytest.mark.usefixtures("fake")
def test_too_few_samples_and_strange_settings_are_refused(network):
    with pytest.raises(ConfigError, match="samples is 3; expected 4 or more"):
        make_fake(network, samples=3)
    with pytest.raises(ConfigError, match="precision 'fp8'"):
        make_fake(network, precision="fp8")
    with pytest.raises(UnknownNameError):
        make_latency(*network, IMAGE, runtime="fakes")


# For real -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_real_network_is_measured_and_predicted(network, runtime: str):
    cost = make_latency(*network, IMAGE, runtime=runtime, samples=8)
    assert 0 < cost(network[1].min_widths()) < 1000
    assert cost.measure([Widths(network[1].max_widths())])[0].median > 0


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path):
    options = ["--networks", "resnet18", "--runtimes", "onnxruntime", "--samples", "4", "--table", "8", "--size", "32"]
    out = tmp_path / "latency.json"
    command = [sys.executable, str(BENCHMARK), *options, "--json", "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    result = json.loads(out.read_text())
    assert json.loads(done.stdout) == result
    found = result["runtimes"]["onnxruntime"]["resnet18"]
    assert {"median_error", "p95_error", "spearman", "kendall", "ceiling", "build_seconds", "rows"} <= set(found)
    assert len(found["rows"]) == 4
    assert result["command"].endswith("--table 8 --size 32")
