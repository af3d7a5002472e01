"""The comparison at its smallest, on real digits: every method on the same work, its table whole, resumable."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from autoslim._console import make_console
from autoslim.cli import main
from autoslim.cli.compare import show_table
from autoslim.compare import CompareConfig, compare_methods, list_methods, plan_comparison, summarise
from autoslim.compare._bench import Bench, make_settings
from autoslim.compare._page import render_page
from autoslim.compare._plan import Forecast
from autoslim.compare._result import measure_difference
from autoslim.compare._spent import Meter, Spent
from autoslim.data import load_data
from autoslim.errors import BudgetError, ConfigError, RunFolderError, UnknownNameError
from autoslim.pipeline import RunConfig
from autoslim.progress import Shown
from autoslim.ranks import Ranks
from autoslim.run_folder import RunFolder
from autoslim.search import Uniform
from autoslim.train import TrainConfig

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
Rows = dict[str, dict[str, Any]]

QUIET = Shown(quiet=True)
RUN = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("macs<=50%",),
    search_images=60,
    train=TrainConfig(epochs_supernet=1, epochs_retrain=2, batch_size=512, augment="none"),
)
METHODS = ("autoslim", "uniform", "l1")


def configure(out: Path, methods: tuple[str, ...] = METHODS, seeds: int = 2) -> CompareConfig:
    return CompareConfig(run=replace(RUN, out=str(out)), methods=methods, seeds=seeds)


def rows_of(result: dict[str, Any]) -> Rows:
    return {row["method"]: row for row in result["rows"]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "done"
    compare_methods(configure(out), shown=QUIET, command="autoslim compare digits")
    return out


@pytest.fixture(scope="module")
def result(done: Path) -> dict[str, Any]:
    return json.loads((done / "compare.json").read_text())


@pytest.fixture(scope="module")
def rows(result: dict[str, Any]) -> Rows:
    return rows_of(result)


# The table ----------------------------------------------------------------------------------------------------------


def check_table(result: dict[str, Any], methods: tuple[str, ...], seeds: list[int]) -> None:
    """A row for each method, and for each that kept weights another; every number is there."""
    rows = rows_of(result)
    assert {name.removesuffix(" (kept weights)") for name in rows} == set(methods)
    assert set(result["methods"]) == set(methods)
    for name, row in rows.items():
        assert row["seeds"] == seeds
        assert len(row["accuracies"]) == len(row["widths"]) == len(seeds)
        assert row["accuracy_mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["accuracy_std"] == pytest.approx(np.std(row["accuracies"], ddof=1))
        assert all(0 <= accuracy <= 1 for accuracy in row["accuracies"])
        assert all(row[cost] > 0 for cost in ("macs", "params", "memory", "latency"))
        assert row["search_seconds"] > 0
        alone = name.endswith("(kept weights)") and "slimmable (kept weights)" not in rows
        assert (row["to_uniform"] is None) == (name in ("uniform", "slimmable (kept weights)") or alone)
        assert (row["to_autoslim"] is None) == (name in ("autoslim", "autoslim (kept weights)"))
    assert rows["autoslim"]["times_autoslim"] == 1


def test_the_table_is_whole(result: dict[str, Any], rows: Rows):
    check_table(result, METHODS, [0, 1])
    assert set(rows) - set(METHODS) == {"autoslim (kept weights)", "l1 (kept weights)"}
    assert result["recipe"]["epochs_retrain"] == 2
    assert result["methods"]["autoslim"] == repr(make_settings("autoslim", seed=0))
    assert 0 < result["hours"] < 1


def test_all_networks_of_a_budget_cost_the_same(result: dict[str, Any], rows: Rows):
    costs = [row["macs"] for row in rows.values()]
    assert max(costs) / min(costs) < 1.01
    assert result["uneven"] == []


def test_search_costs_are_what_was_run(rows: Rows):
    assert rows["uniform"]["search_image_macs"] == 0
    assert rows["autoslim"]["search_image_macs"] > rows["l1"]["search_image_macs"] > 1e8
    assert rows["l1"]["search_image_macs"] == rows["l1 (kept weights)"]["search_image_macs"]
    share = rows["l1"]["search_image_macs"] / rows["autoslim"]["search_image_macs"]
    assert rows["l1"]["times_autoslim"] == pytest.approx(share)


def test_networks_of_kept_weights_are_held_against_their_kind(rows: Rows):
    own, other = rows["l1 (kept weights)"], rows["autoslim (kept weights)"]
    assert own["to_autoslim"]["differences"] == pytest.approx(np.subtract(own["accuracies"], other["accuracies"]))
    assert own["to_uniform"] is None  # slimmable was not run: uniform has had less training


def test_the_page_tells_all_of_it_and_fetches_nothing(done: Path, result: dict[str, Any]):
    page = (done / "compare.html").read_text(encoding="utf-8")
    own = render_page(result)
    assert page == own
    for row in result["rows"]:
        assert f">{row['method']}</th>" in own
        assert f"{row['accuracy_mean']:.2%}" in own
    for settings in result["methods"].values():
        assert settings.split("(")[0] in own
    assert not re.findall(r"(?:src|href)=", own)
    pictures = re.findall(r"<svg.*?</svg>", own, re.S)
    assert len(pictures) == 1  # and none against MACs: there is one budget
    for picture in pictures:  # each row is a point in each, with its mean and spread
        told = [html.unescape(title) for title in re.findall(r"<title>(.*?)</title>", picture)]
        assert len(told) == picture.count("<circle") == len(result["rows"])
        for row in result["rows"]:
            spread = f" (deviation {100 * row['accuracy_std']:.2f})" if row["accuracy_std"] else ""
            assert (
                sum(text.startswith(f"{row['method']}: {100 * row['accuracy_mean']:.2f}%{spread},") for text in told)
                == 1
            )


# Going on -----------------------------------------------------------------------------------------------------------


def test_a_comparison_goes_on_where_it_stopped_wherever_its_folder_is(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = (done / "compare.json").read_text()
    moved = tmp_path / "moved"
    shutil.copytree(done, moved, ignore=shutil.ignore_patterns("compare.*"))
    monkeypatch.setattr(Bench, "_fit", lambda *args: pytest.fail("trained again"))
    compare_methods(configure(moved), shown=QUIET, command="autoslim compare digits")
    assert (moved / "compare.json").read_text() == before


def test_a_lost_network_is_trained_again_to_the_same_and_the_table_keeps_the_rest(done: Path, rows: Rows):
    place = done / "seed-0"
    for file in (*(place / "models" / "l1" / "macs-50" / "kept").iterdir(), place / "methods" / "l1" / "rows.json"):
        file.unlink()
    again = rows_of(compare_methods(configure(done, ("l1",), 1), shown=QUIET))
    assert {name: row["accuracies"] for name, row in again.items()} == {n: r["accuracies"] for n, r in rows.items()}


def test_stopped_in_a_training_it_goes_on_and_counts_each_step_once(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
):
    """Stopped after the first step of the full-width network's training, which counts, and of a final training."""
    step, stops = Meter.step, [1]

    def stopping(meter: Meter, loss: float, done: int) -> None:
        step(meter, loss, done)
        if done in stops:
            stops.remove(done)
            raise KeyboardInterrupt

    monkeypatch.setattr(Meter, "step", stopping)
    config = configure(tmp_path / "out", ("l1",), 1)
    with pytest.raises(KeyboardInterrupt):
        compare_methods(config, shown=QUIET)
    assert list((tmp_path / "out" / "seed-0" / "checkpoints").glob("*/step-*"))
    told: list[str] = []
    shown = Shown(quiet=True)
    monkeypatch.setattr(shown, "line", told.append)
    again = rows_of(compare_methods(config, shown=shown))
    assert any("goes on after step 1" in line for line in told)
    for name, row in again.items():
        assert row["accuracies"] == rows[name]["accuracies"][:1]
        assert row["accuracy_std"] is None
        assert row["search_image_macs"] == rows[name]["search_image_macs"]
    assert not list((tmp_path / "out" / "seed-0" / "checkpoints").glob("*/step-*"))


def test_a_meter_that_lost_its_lines_says_so(tmp_path: Path):
    file = tmp_path / "spent.jsonl"
    with Meter(file) as meter:
        for done in (1, 2, 3):
            torch.ones(2, 3) @ torch.ones(3, 4)
            meter.step(0.0, done)
    assert meter.spent.image_macs == 72
    with Meter(file) as meter:  # the third step was not kept
        torch.ones(2, 3) @ torch.ones(3, 4)
        meter.step(0.0, 3)
    assert meter.spent.image_macs == 72
    with Meter(file) as meter:  # nothing was left to do
        pass
    assert meter.spent.image_macs == 72
    assert Spent.from_json(meter.spent.to_json()) == meter.spent
    with pytest.raises(RunFolderError, match="what 3 steps cost, and the training goes on after step 7"), Meter(file):
        Meter(file).step(0.0, 8)
    with pytest.raises(RunFolderError, match="what 0 steps cost"), Meter(tmp_path / "none"):
        pass


def test_seeds_can_be_done_by_commands_of_their_own_in_one_folder(tmp_path: Path, rows: Rows):
    out, methods = tmp_path / "side", ("uniform",)
    for seed in (1, 0):
        config = configure(out, methods, 1)
        compare_methods(replace(config, run=replace(config.run, seed=seed)), shown=QUIET)
    whole = rows_of(compare_methods(configure(out, methods, 2), shown=QUIET))
    assert whole["uniform"]["accuracies"] == rows["uniform"]["accuracies"]


def test_other_work_in_the_folder_is_refused(done: Path):
    config = CompareConfig(run=replace(RUN, out=str(done), budget=("macs<=40%",)), methods=("uniform",), seeds=1)
    with pytest.raises(RunFolderError, match="holds a comparison with budget"):
        compare_methods(config, shown=QUIET)


def test_a_command_that_was_refused_claims_no_folder(tmp_path: Path):
    config = configure(tmp_path / "out", ("uniform",), 1)
    with pytest.raises(BudgetError):
        compare_methods(replace(config, run=replace(config.run, budget=("macs<=1%",))), shown=QUIET)
    assert compare_methods(config, shown=QUIET)["rows"]


def test_several_processes_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoslim.compare.join_ranks", lambda: Ranks(0, 2))
    with pytest.raises(ConfigError, match="2 processes share the run"):
        compare_methods(configure(tmp_path / "out"), shown=QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "module"), [("torch-pruning", "torch_pruning"), ("lasso", "sklearn.linear_model")])
def test_a_missing_package_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{name}: the package .* Install it with pip install .*, or leave"):
        compare_methods(configure(tmp_path / "out", ("uniform", name)), shown=QUIET)
    assert not (tmp_path / "out").exists()


def test_a_choice_of_other_settings_is_refused(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(done, tmp_path / "out")
    (tmp_path / "out/seed-0/methods/uniform/rows.json").unlink()
    monkeypatch.setattr("autoslim.compare._bench.make_settings", lambda name, seed: Uniform(tolerance=0.5))
    with pytest.raises(RunFolderError, match=r"chosen.json is of Uniform.*expected Uniform\(tolerance=0.5\)"):
        compare_methods(configure(tmp_path / "out", ("uniform",), 1), shown=QUIET)


def test_other_images_are_refused(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(done, tmp_path / "out")

    def load_other(*args: Any, **kwargs: Any) -> Any:
        data = load_data(*args, **kwargs)
        return replace(data, train=data.train.take(torch.arange(len(data.train)).flip(0)))

    monkeypatch.setattr("autoslim.pipeline._batches.load_data", load_other)
    with pytest.raises(RunFolderError, match="split"):
        compare_methods(configure(tmp_path / "out", ("uniform", "flat"), 1), shown=QUIET)


def test_rows_of_other_settings_are_refused(done: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoslim.compare._bench.make_settings", lambda name, seed: Uniform(tolerance=0.5))
    with pytest.raises(RunFolderError, match=r"expected Uniform\(tolerance=0.5\), as this version has it"):
        compare_methods(configure(done, ("uniform",), 1), shown=QUIET)


def test_rows_of_other_settings_are_refused_whatever_seed_they_are_of(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before anything runs: seeds of two versions make no table."""
    shutil.copytree(done, tmp_path / "out")
    file = tmp_path / "out/seed-1/methods/uniform/rows.json"
    file.write_text(file.read_text().replace("tolerance=0.01", "tolerance=0.5"))
    monkeypatch.setattr(Bench, "take", lambda *args: pytest.fail("ran"))
    with pytest.raises(RunFolderError, match=r"seed-1/methods/uniform/rows.json is of Uniform\(tolerance=0.5\)"):
        compare_methods(configure(tmp_path / "out", ("uniform",), 1), shown=QUIET)


def test_a_seed_that_another_process_works_on_is_refused(done: Path):
    with RunFolder(done / "seed-0").held(), pytest.raises(RunFolderError, match=r"Another process is at work.*seed-0"):
        compare_methods(configure(done, ("uniform",), 1), shown=QUIET)
    assert compare_methods(configure(done, ("uniform",), 1), shown=QUIET)["rows"]


def test_a_trained_network_of_other_widths_is_refused(done: Path, tmp_path: Path):
    shutil.copytree(done, tmp_path / "out")
    (tmp_path / "out/seed-0/methods/uniform/rows.json").unlink()
    place = tmp_path / "out/seed-0/models/uniform/macs-50/scratch"
    told = json.loads((place / "trained.json").read_text())
    told["widths"]["stem"] += 1
    (place / "trained.json").write_text(json.dumps(told))
    with pytest.raises(RunFolderError, match=rf"of the widths .* Delete {re.escape(str(place))}, and the network"):
        compare_methods(configure(tmp_path / "out", ("uniform",), 1), shown=QUIET)


def test_a_lost_full_width_network_is_trained_again_and_not_counted_twice(done: Path, tmp_path: Path, rows: Rows):
    shutil.copytree(done, tmp_path / "out")
    (tmp_path / "out/seed-0/trained.safetensors").unlink()
    shutil.rmtree(tmp_path / "out/seed-0/methods/l1")
    again = rows_of(compare_methods(configure(tmp_path / "out", ("l1",), 1), shown=QUIET))
    for name in ("l1", "l1 (kept weights)"):
        assert again[name]["accuracies"] == rows[name]["accuracies"]
        assert again[name]["search_image_macs"] == rows[name]["search_image_macs"]


@pytest.mark.faults
def test_killed_anywhere_it_ends_in_the_same(tmp_path: Path):
    options = ["--methods", "autoslim,l1", "--seeds", "1", "--model", "zoo:resnet_digits?width=8"]
    options += ["--budget", "macs<=50%", "--search-images", "60", "--epochs-supernet", "4", "--epochs-retrain", "4"]

    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "autoslim", "compare", "digits", *options, "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(600) == 0
    kills, marks = 0, ("supernet-spent.jsonl", "supernet.json", "trained-spent.jsonl", "methods/l1/chosen.json")
    for mark in marks:  # killed when each of these has appeared
        running = start(tmp_path / "killed")
        while not (tmp_path / "killed" / "seed-0" / mark).exists() and running.poll() is None:
            time.sleep(0.02)
        if running.poll() is None:
            os.kill(running.pid, signal.SIGKILL)
            kills += 1
        running.wait()
    assert kills == len(marks)
    assert start(tmp_path / "killed").wait(600) == 0
    whole, killed = (rows_of(json.loads((tmp_path / n / "compare.json").read_text())) for n in ("whole", "killed"))
    for name, row in whole.items():
        for field in ("accuracies", "widths", "search_image_macs"):
            assert killed[name][field] == row[field], (name, field)


# What it is made of -------------------------------------------------------------------------------------------------


def test_paired_differences_have_students_interval():
    told = measure_difference([0.01, 0.03, -0.01, 0.02])
    low, high = stats.t.interval(0.95, 3, loc=0.0125, scale=stats.sem([0.01, 0.03, -0.01, 0.02]))
    assert (told["mean"], told["low"], told["high"]) == pytest.approx((0.0125, low, high))
    assert measure_difference([0.5]) == {"differences": [0.5], "mean": 0.5, "low": None, "high": None}
    assert measure_difference([0.9 - 0.8, 0.8 - 0.7])["low"] is None  # the same but for rounding


def test_pairs_are_of_one_seed_and_uneven_rows_are_named():
    def row(method: str, seed: int, accuracy: float, gap: float = -0.001) -> dict[str, Any]:
        costs = dict.fromkeys(("macs", "params", "memory", "latency", "image_macs", "seconds"), 1.0) | {"widths": {}}
        return {"method": method, "seed": seed, "budget": "b", "accuracy": accuracy, "gap": gap, **costs}

    taken = [row("uniform", 0, 0.5), row("x", 0, 0.6), row("uniform", 1, 0.8), row("x", 1, 0.7, gap=-0.05)]
    told = summarise(taken, model="m")
    assert told["rows"][1]["to_uniform"]["differences"] == pytest.approx([0.1, -0.1])
    assert told["rows"][1]["to_autoslim"] is told["rows"][1]["times_autoslim"] is None  # it was not run
    assert told["uneven"] == ["x, b: -5.0%"]


def test_rows_of_a_joint_budget_that_differ_in_one_of_its_costs_are_named():
    """Both are close to the limit that binds them, and far apart in the other."""

    def row(method: str, macs: float, memory: float) -> dict[str, Any]:
        costs = dict.fromkeys(("params", "latency", "image_macs", "seconds"), 1.0) | {"macs": macs, "memory": memory}
        kind = {"method": method, "seed": 0, "budget": "macs<=50%,memory<=50%", "accuracy": 0.5, "gap": -0.001}
        return {**kind, **costs, "widths": {}}

    told = summarise([row("uniform", 50.0, 48.0), row("x", 49.9, 36.0), row("y", 49.8, 48.2)], model="m")
    (line,) = told["uneven"]
    assert line == "macs<=50%,memory<=50%: memory of x is 25.3% below that of y"


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(UnknownNameError, match="netadapt"):
        CompareConfig(run=RUN, methods=("netadopt",))
    with pytest.raises(ConfigError, match="0 seeds"):
        CompareConfig(run=RUN, methods=("uniform",), seeds=0)
    with pytest.raises(ConfigError, match="retrain is 'inherit'"):
        CompareConfig(run=replace(RUN, retrain="inherit"), methods=("uniform",))
    with pytest.raises(ConfigError, match="'stem:min=4,divisor=2' sets a narrowest width"):
        CompareConfig(run=replace(RUN, limit=("*:divisor=1", "stem:min=4,divisor=2")), methods=("uniform",))
    with pytest.raises(ConfigError, match="latency"):
        CompareConfig(run=replace(RUN, budget=("latency<=5ms",)), methods=("uniform",))
    with pytest.raises(ConfigError, match="compile is True"):
        CompareConfig(run=replace(RUN, train=replace(RUN.train, compile=True)), methods=("uniform",))


def test_the_plan_counts_trainings_and_writes_nothing(tmp_path: Path):
    run = replace(RUN, out=str(tmp_path / "out"), budget=(" macs <= 50%",))  # written as a person may
    plan = plan_comparison(CompareConfig(run=run, methods=("uniform", "l1"), seeds=2), shown=QUIET)
    assert plan.trainings == 6  # l1 also from the weights it kept
    assert plan.hours > 0
    assert not (tmp_path / "out").exists()


def test_the_command_tells_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        main(["compare", "digits", "--methods", "uniform", "--seeds", "1", "--dry-run", "--out", str(tmp_path / "x")])
        == 0
    )
    told = capsys.readouterr().out
    assert "2 final trainings" in told
    assert re.search(r"About (\d+\.\d s|\d+ min \d\d s) at the speed", told)
    assert main(["compare", "digits", "--methods", "unifrom", "--dry-run"]) == 2
    assert "Closest: uniform" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compare_digits", "compare_digits_five"])
def test_the_table_fits_a_terminal_of_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Each row on a line of its own, nothing cut; two seeds or one, one budget or five."""
    monkeypatch.setenv("COLUMNS", "80")
    told = json.loads((RESULTS / f"{name}.json").read_text())
    show_table(make_console(), told)
    out = capsys.readouterr().out
    lines = out.splitlines()
    table = lines[: next(at for at, line in enumerate(lines) if line.startswith("(kept weights): "))]
    budgets = {row["budget"] for row in told["rows"]}
    assert len(table) == 1 + len(budgets) + len(told["rows"])
    assert max(map(len, table)) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    for row in told["rows"]:
        assert any(
            line.startswith(f"{row['method']} ") and f"{100 * row['accuracy_mean']:.2f}" in line for line in table
        )


def test_the_plan_counts_what_the_methods_share(tmp_path: Path):
    run = replace(RUN, out=str(tmp_path / "out"))

    def shared(*methods: str) -> float:
        return plan_comparison(CompareConfig(run=run, methods=methods), shown=QUIET).shared_image_macs

    assert shared("uniform", "flat") == 0
    assert shared("autoslim", "slimmable") == shared("slimmable") > 0
    assert shared("l1", "netadapt") == shared("l1") > 0
    assert shared("autoslim", "l1") == shared("autoslim") + shared("l1")


def test_the_plan_counts_the_trainings_that_methods_choose_by(tmp_path: Path):
    run = replace(RUN, out=str(tmp_path / "out"))

    def plan(*methods: str, budgets: int = 1) -> Forecast:
        wide = replace(run, budget=("macs<=50%", "macs<=40%")[:budgets])
        return plan_comparison(CompareConfig(run=wide, methods=methods, seeds=1), shown=QUIET)

    assert plan("uniform", "l1").own_image_macs == 0
    assert plan("bn-scale").own_image_macs == plan("l1").shared_image_macs  # both at full width
    assert plan("rl", budgets=2).own_image_macs == 2 * plan("rl").own_image_macs > 0
    assert plan("netadapt", budgets=2).own_image_macs > plan("netadapt").own_image_macs > 0
    both = plan("netadapt").own_image_macs + plan("rl").own_image_macs
    assert plan("netadapt", "rl").own_image_macs == pytest.approx(both)


def test_slimmable_is_the_uniform_network_with_the_supernets_weights(done: Path, tmp_path: Path):
    shutil.copytree(done, tmp_path / "out")
    rows = rows_of(compare_methods(configure(tmp_path / "out", ("slimmable",)), shown=QUIET))
    assert "slimmable" not in rows  # from scratch it is uniform
    row, kept = rows["slimmable (kept weights)"], rows["autoslim (kept weights)"]
    assert row["widths"] == rows["uniform"]["widths"]
    assert row["to_autoslim"]["differences"] == [
        own - other for own, other in zip(row["accuracies"], kept["accuracies"], strict=True)
    ]
    assert row["to_uniform"] is None
    assert kept["to_uniform"]["differences"] == [-each for each in row["to_autoslim"]["differences"]]
    supernet = json.loads((tmp_path / "out/seed-0/supernet.json").read_text())
    assert supernet["image_macs"] < kept["search_image_macs"]
    found = [json.loads((tmp_path / f"out/seed-{seed}/methods/slimmable/chosen.json").read_text()) for seed in (0, 1)]
    assert [each["networks"][0]["kept"] for each in found] == [True, True]
    assert found[0]["image_macs"] >= supernet["image_macs"]  # and what the statistics of BatchNorm take


def test_a_comparison_goes_on_from_its_small_files_alone(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that finished seeds can be kept as text, and others added to them elsewhere."""
    shutil.copytree(done, tmp_path / "out", ignore=shutil.ignore_patterns("*.safetensors", "metrics", "*.png"))
    before = json.loads((done / "compare.json").read_text())
    monkeypatch.setattr(Bench, "train", None)  # nothing is trained again
    after = compare_methods(configure(tmp_path / "out"), shown=QUIET)
    assert [row["accuracies"] for row in after["rows"]] == [row["accuracies"] for row in before["rows"]]


def test_every_method_has_one_name():
    names = list_methods()
    assert len(names) == len(set(names))
    assert {"autoslim", "uniform", "l1", "netadapt", "bn-scale"} <= set(names)


@pytest.mark.slow
def test_all_methods_on_digits(tmp_path: Path):
    names = tuple(list_methods())
    config = configure(tmp_path / "all", names)
    finer = replace(config.run, model="zoo:resnet_digits")  # a channel of it costs less than a percent
    result = compare_methods(replace(config, run=finer), shown=QUIET)
    check_table(result, names, [0, 1])
    assert result["uneven"] == []
    rows = rows_of(result)
    costs = [row["macs"] for row in rows.values()]
    assert max(costs) / min(costs) < 1.01
    assert {name for name, row in rows.items() if row["search_image_macs"] == 0} == {
        "uniform", "flat", "ramp-up", "ramp-down", "hourglass", "bottleneck", "wide-inside", "equal"
    }  # fmt: skip
    # both trained one full-width network for as long; l1 from the one that is shared, bn-scale its own
    assert rows["bn-scale"]["search_image_macs"] == pytest.approx(rows["l1"]["search_image_macs"], rel=1e-6)
