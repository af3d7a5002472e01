"""A run under a budget of latency: what it finds holds as measured, and nothing is measured twice."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from autoslim.cli import main
from autoslim.costs import make_latency
from autoslim.errors import BudgetError, ConfigError, UnknownNameError
from autoslim.extract import extract_network
from autoslim.pick import pick_network
from autoslim.pipeline import (
    RunConfig,
    obtain_supernet,
    plan_run,
    plan_search,
    read_config,
    reopen_job,
    resume,
    run,
    search_again,
)
from autoslim.pipeline._finalists import enroll
from autoslim.pipeline._search import search_budgets
from autoslim.progress import Shown
from autoslim.runtimes import RUNTIMES, Runtime
from autoslim.saved import load
from autoslim.search import make_method
from autoslim.train import TrainConfig
from autoslim.widths import Widths

CONFIG = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("latency<=70%", "latency<=50%,macs<=60%"),
    baselines="uniform",
    search_images=60,
    train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=128, augment="crop"),
)

_PLACE = "searches/greedy-latency-50"


def true_ms(model: nn.Module) -> float:
    """So many milliseconds a weight, and for each network up to a fifth more, which nothing but measuring tells."""
    shapes = [tuple(weight.shape) for weight in model.parameters() if weight.dim() > 1]
    mood = int(hashlib.sha256(repr(shapes).encode()).hexdigest()[:4], 16) / 0xFFFF
    return (1 + sum(torch.Size(shape).numel() for shape in shapes) / 1e3) * (1 + 0.2 * mood)


class Moody(Runtime):
    name: ClassVar[str] = "moody"
    prepared: ClassVar[list[nn.Module]] = []

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str):
        self.prepared.append(model)
        ms = true_ms(model)
        return lambda: ms

    def version(self) -> str:
        return "moody 1"


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch, tmp_path) -> type[Moody]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(RUNTIMES._items, "moody", Moody)
    monkeypatch.setattr(Moody, "prepared", [])
    return Moody


def test_what_is_found_holds_its_budget_as_measured(moody, tmp_path, capsys):
    folder = run(replace(CONFIG, runtime="moody", out=str(tmp_path / "run")), shown=Shown(), command="autoslim run x")
    told = capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    limits = [0.7 * summary["base"]["latency"], 0.5 * summary["base"]["latency"]]
    for row, limit in zip(summary["budgets"], limits, strict=True):
        assert true_ms(load(folder / row["folder"])) <= limit
        assert row["latency"] == pytest.approx(true_ms(load(folder / row["folder"])), rel=1e-6)
    graph = reopen_job(folder).graph
    for row, limit in zip(summary["budgets"], limits, strict=True):
        uniform = json.loads((folder / row["folder"] / "uniform" / "widths.json").read_text())["widths"]
        assert all(uniform[group.name] in group.candidates for group in graph.groups)
        assert row["uniform"]["latency"] <= limit
        told_ms = row["uniform"]["latency"]
        assert true_ms(load(folder / row["folder"] / "uniform")) == pytest.approx(told_ms, rel=1e-6)
        (line,) = [line for line in told.splitlines() if line.startswith(f"uniform   {row['budget']}: ratio 0.")]
        metric = "macs" if "macs" in row["budget"] else "latency"
        assert f"{row['uniform'][metric] / row[metric] - 1:+.2%} {metric} of AutoSlim's" in line
        below = f"{1 - row['uniform']['latency'] / limit:.1%} below the limit: the next wider candidates break it"
        if metric == "latency":
            assert row["uniform"]["note"] == below
        assert line.endswith(f"; {row['uniform']['note']}")
    assert "measure   predicted" in told
    table = json.loads((folder / "latency.json").read_text())
    assert len(table["measured"]) >= 2
    steps = [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]
    assert all("latency" in step["costs"] for step in steps)

    before = (folder / "search.jsonl").read_bytes(), (folder / "latency.json").read_bytes()
    (folder / "summary.json").unlink()
    count = len(moody.prepared)
    assert (
        json.loads((resume(folder, shown=Shown(quiet=True)) / "summary.json").read_text())["budgets"]
        == (summary["budgets"])
    )
    assert len(moody.prepared) == count
    assert ((folder / "search.jsonl").read_bytes(), (folder / "latency.json").read_bytes()) == before

    asked = replace(read_config(folder), budget=("latency<=60%",))
    search_again(folder, asked, name="again", shown=Shown(quiet=True))
    capsys.readouterr()
    pick_network(folder, "latency<=60%", search="again", shown=Shown())
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("latency   "))
    assert line.startswith("latency   moody, 1 thread, fp32, batch 1: ")
    assert line.endswith(f", kept from {date.today()}")


def test_a_search_that_was_stopped_between_two_rounds_goes_on(moody, tmp_path, monkeypatch):
    """The correction is on the disk, the path is still at the old prices: they are put right."""
    config = replace(
        CONFIG, runtime="moody", out=str(tmp_path / "run"), budget=("latency<=50%",), baselines="none", retrain="none"
    )
    folder = run(config, shown=Shown(quiet=True))
    lines = [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]
    whole = (folder / "search.jsonl").read_bytes()
    for line in lines:
        line["costs"]["latency"] *= 1.1
    (folder / "search.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").unlink()
    resume(folder, shown=Shown(quiet=True))
    assert (folder / "search.jsonl").read_bytes() == whole


def test_a_budget_that_measuring_put_out_of_reach_does_not_lock_the_run(moody, tmp_path):
    """The corrected table refuses it; other budgets are searched and picked for."""
    budget = ("latency<=50%",)
    config = replace(CONFIG, runtime="moody", out=str(tmp_path / "run"), budget=budget, baselines="none")
    folder = run(replace(config, retrain="none"), shown=Shown(quiet=True))
    table = json.loads((folder / "latency.json").read_text())
    table["measured"] = [{"widths": dict(reopen_job(folder).space.narrowest), "ms": 1e3}]  # above the whole network's
    (folder / "latency.json").write_text(json.dumps(table))
    (folder / "summary.json").unlink()
    with pytest.raises(BudgetError, match="no sub-network holds it"):
        resume(folder, shown=Shown(quiet=True))
    asked = replace(read_config(folder), budget=("macs<=60%",))
    assert search_again(folder, asked, shown=Shown(quiet=True))["found"]
    assert plan_search(folder, asked, shown=Shown(quiet=True)).refused is None
    assert pick_network(folder, "macs<=90%", shown=Shown(quiet=True)).step


@pytest.mark.slow
def test_finalists_hold_a_latency_as_measured_and_nothing_is_measured_twice(moody, tmp_path):
    folder = run(replace(CONFIG, runtime="moody", out=str(tmp_path / "run"), finalists=4), shown=Shown(quiet=True))
    summary, job = json.loads((folder / "summary.json").read_text()), reopen_job(folder)
    limits = [0.7 * summary["base"]["latency"], 0.5 * summary["base"]["latency"]]
    enrolled = json.loads((folder / "finalists.json").read_text())["budgets"]
    for limit, row in zip(limits, enrolled, strict=True):
        assert len(row["candidates"]) >= 2
        for each in row["candidates"].values():
            true = true_ms(extract_network(job.model, job.graph, Widths(each["widths"])))
            assert each["costs"]["latency"] == pytest.approx(true, rel=1e-6)
            assert true <= limit
    for row in summary["budgets"]:  # the winners, too, are told as measured
        assert row["latency"] == pytest.approx(true_ms(load(folder / row["folder"])), rel=1e-6)

    kept = {
        path: path.read_bytes() for path in folder.rglob("*.json*") if path.name in ("search.jsonl", "latency.json")
    }
    for name in ("summary.json", "finalists.json"):
        (folder / name).unlink()
    count = len(moody.prepared)
    resume(folder, shown=Shown(quiet=True))
    assert len(moody.prepared) == count
    assert len(kept) > 4
    assert {path: path.read_bytes() for path in kept} == kept
    assert json.loads((folder / "summary.json").read_text())["budgets"] == summary["budgets"]
    assert json.loads((folder / "finalists.json").read_text())["budgets"] == enrolled


def test_what_is_predicted_for_finalists_does_not_count_as_measured(moody, tmp_path):
    """Under a budget of MACs nobody measures them."""
    config = replace(CONFIG, runtime="moody", out=str(tmp_path / "run"), budget=("latency<=60%", "macs<=50%"))
    folder = run(replace(config, baselines="none", finalists=2), shown=Shown(quiet=True))
    job = reopen_job(folder, shown=Shown(quiet=True))
    obtain_supernet(job)
    enrolled = enroll(job, search_budgets(job))
    measured = job.costs["latency"].measured
    for widths, latency in measured.items():
        assert latency == pytest.approx(true_ms(extract_network(job.model, job.graph, widths)), rel=1e-6)
    limited, counted = ({each.widths for each in row.values()} for row in enrolled)
    assert limited <= set(measured)
    assert counted - limited


def test_a_run_searched_again_under_a_latency_holds_it_as_measured(finished, moody, tmp_path, capsys):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    asked = replace(read_config(folder), budget=("latency<=50%",), runtime="moody")
    found = search_again(folder, asked, shown=Shown(quiet=True))
    job = reopen_job(folder, shown=Shown(quiet=True))
    table = make_latency(
        job.networks.build(),
        job.graph,
        torch.zeros(1, 1, 8, 8),
        runtime="moody",
        table=folder / _PLACE / "latency.json",
    )
    own = replace(table, measured={})(job.own)
    small = extract_network(job.model, job.graph, Widths(found["found"][0]["widths"]))
    assert true_ms(small) <= 0.5 * own
    assert found["found"][0]["costs"]["latency"] == pytest.approx(true_ms(small), rel=1e-6)
    assert found["runtime"] == "moody"
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert not (folder / "latency.json").exists()

    count, whole = len(moody.prepared), (folder / _PLACE / "found.json").read_bytes()
    (folder / _PLACE / "found.json").unlink()
    search_again(folder, asked, shown=Shown(quiet=True))
    assert (folder / _PLACE / "found.json").read_bytes() == whole
    assert len(moody.prepared) == count  # nothing is measured twice

    uniform = found["found"][0]["uniform"]
    assert uniform["costs"]["latency"] < 0.5 * own
    assert uniform["note"].endswith("% below the limit: the next wider candidates break it")
    capsys.readouterr()
    assert main(["search", str(folder), "--budget", "latency<=50%", "--runtime", "moody"]) == 0
    assert f"latency<=50%: uniform is {uniform['note']}\n" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["greedy", "uniform"])
def test_what_a_search_measured_is_picked_as_it_measured_it(finished, moody, tmp_path, method):
    """On the runtime of the search, which is not that of the run, and without measuring once more."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    asked = {"method": method, "search": make_method(method), "runtime": "moody", "budget": ("latency<=50%",)}
    row = search_again(folder, replace(read_config(folder), **asked), shown=Shown(quiet=True))["found"][0]
    count = len(moody.prepared)
    picked = pick_network(folder, "latency<=50%", search=f"{method}-latency-50", shown=Shown(quiet=True))
    assert picked.measured
    assert dict(picked.widths) == row["widths"]
    assert picked.costs["latency"] == pytest.approx(row["costs"]["latency"], rel=1e-9)
    assert picked.costs["latency"] <= 0.5 * picked.base["latency"]
    assert len(moody.prepared) == count


def test_a_budget_that_no_network_holds_is_refused_before_the_folder_is_made(moody, tmp_path):
    with pytest.raises(BudgetError, match=r"[\d.]+ ms latency \(.*expected at most [\d.]+ ms\. Write"):
        run(
            replace(CONFIG, runtime="moody", out=str(tmp_path / "run"), budget=("latency<=1%",)),
            shown=Shown(quiet=True),
        )
    config = replace(CONFIG, runtime="moody", out=str(tmp_path / "run"), budget=("latency<=1us",))
    with pytest.raises(BudgetError) as error:
        run(config, shown=Shown(quiet=True))
    text = re.search('Write "(latency<=[0-9.]+ms)" or more', str(error.value))[1]
    assert plan_run(replace(config, budget=(text,)), shown=Shown(quiet=True)).refused is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"runtime": "torhc"}, UnknownNameError, "torch"),
        ({"runtime_precision": "int4"}, ConfigError, "fp32"),
        ({"runtime_threads": 0}, ConfigError, "1 or more"),
        ({"runtime_batch": 0}, ConfigError, "at least 1"),
    ],
)
def test_settings_of_the_runtime_are_refused(options, error, told):
    with pytest.raises(error, match=told):
        RunConfig(model="zoo:resnet_digits", data="digits", **options)
