"""A network for a budget from a finished search: the search's own where it was asked for it, and no search."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoslim import load
from autoslim.budget import Budget
from autoslim.cli import main
from autoslim.errors import BudgetError, ConfigError, RunFolderError, UnknownNameError
from autoslim.extract import extract_network
from autoslim.pick import extract_picked, pick_network
from autoslim.pipeline import RunConfig, obtain_supernet, read_config, reopen_job, run, search_again
from autoslim.progress import Shown
from autoslim.search import make_method
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)
SETTINGS = {"evolution": {"population": 4, "generations": 1, "parents": 2}, "knapsack": {}, "random": {"samples": 4}}
NETWORK = """
from torch import nn

def wide():
    layers = [nn.Conv2d(1, 64, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def no_search(monkeypatch):
    """The network is not even built."""
    monkeypatch.setattr("autoslim.pick.reopen_job", lambda *_, **__: pytest.fail("the run was opened again"))


def test_a_budget_of_the_run_gets_what_its_search_found(finished: Path, no_search):
    summary = json.loads((finished / "summary.json").read_text())
    for row in summary["budgets"]:
        picked = pick_network(finished, row["budget"])
        assert dict(picked.widths) == row["widths"]
        assert picked.costs["macs"] == row["macs"]
        assert picked.score is not None
        assert picked.score.accuracy == row["accuracy"]["search"]
        assert picked.base["params"] == summary["base"]["params"]


def test_any_other_budget_gets_the_first_point_that_holds(finished: Path, no_search):
    steps = [json.loads(line) for line in (finished / "search.jsonl").read_text().splitlines()]
    base = json.loads((finished / "summary.json").read_text())["base"]
    for text in ("macs<=45%", "params<=70%", "macs<=80%,memory<=50%"):
        picked, budget = pick_network(finished, text), Budget.parse(text)
        assert budget.holds(picked.costs, base)
        assert not any(budget.holds(step["costs"], base) for step in steps[: picked.step - 1])
        assert dict(picked.widths) == steps[picked.step - 1]["widths"]
    assert pick_network(finished, "macs<=100%").step == 0
    assert pick_network(finished, "macs<=100%").score is None


def test_a_budget_below_the_path_is_told(finished: Path):
    with pytest.raises(BudgetError, match=r"Budget 'macs<=5%': the search's path ends at macs [\d.]+k \(\d+\.\d%\)"):
        pick_network(finished, "macs<=5%")
    with pytest.raises(
        RunFolderError, match=r"No search 'elsewhere' in .*searches; expected .*: none\. .* --method gre"
    ):
        pick_network(finished, "macs<=50%", search="elsewhere")
    with pytest.raises(RunFolderError, match=r"`run\.json` is missing"):
        pick_network(finished / "models", "macs<=50%")
    with pytest.raises(UnknownNameError, match=r"Unknown cost 'foo'"):
        pick_network(finished, "foo<=50%")


def test_what_is_extracted_is_what_the_supernet_predicted(finished: Path, tmp_path: Path, capsys):
    folder = tmp_path / "mine"
    assert main(["pick", str(finished), "--budget", "macs<=45%", "--extract", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["retrained"], metrics["macs"]) == (False, told["costs"]["macs"])
    assert metrics["search_accuracy"] == told["score"]["accuracy"]
    job = reopen_job(finished, shown=Shown(quiet=True))
    obtain_supernet(job)
    model, right = load(folder), 0
    with torch.no_grad():
        for images, labels in job.batches(job.judges):
            right += int((model(images).argmax(1) == labels).sum())
    assert right / len(job.judges) == pytest.approx(told["score"]["accuracy"], abs=0.02)
    picked = pick_network(finished, "macs<=45%")
    plain = extract_network(job.model, job.graph, picked.widths)
    assert not torch.equal(dict(plain.named_buffers())["norm.running_mean"], model.norm.running_mean)
    assert main(["export", str(folder), "--images", str(finished), "--to", "state-dict"]) == 0
    with pytest.raises(ConfigError, match="is there already; expected a new folder"):
        extract_picked(finished, picked, folder)


def test_the_table_is_for_people(finished: Path, capsys):
    assert main(["pick", str(finished), "--budget", "macs<=45%"]) == 0
    first, predicted, head, *rows, last = capsys.readouterr().out.splitlines()
    assert first.startswith("macs<=45%: after ")
    assert predicted.startswith("predicted: accuracy ")
    assert predicted.endswith("in the supernet on the search images")
    assert head.split() == ["group", "channels"]
    assert last == "Nothing was written: --extract DIR writes this network."
    picked = pick_network(finished, "macs<=45%")
    assert [row.split() for row in rows] == [[group, str(width)] for group, width in picked.widths.items()]


# From a later search ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def search(folder: Path, method: str, *budgets: str, **settings):
    chosen = replace(make_method(method), **settings)
    return search_again(folder, replace(read_config(folder), method=method, search=chosen, budget=budgets), shown=QUIET)


@pytest.mark.parametrize("method", ["evolution", "knapsack", "random", "uniform"])
def test_what_a_method_without_a_path_found_is_picked(folder: Path, tmp_path: Path, method, monkeypatch):
    asked = ("macs<=50%", "params<=60%,macs<=70%")
    found = search(folder, method, *asked, **SETTINGS.get(method, {}))
    name = Path(found["folder"]).name
    monkeypatch.setattr("autoslim.pick.reopen_job", lambda *_, **__: pytest.fail("the run was opened again"))
    for text, row in zip(("flops<=50%", "macs<=70%, params<=60%"), found["found"], strict=True):
        picked = pick_network(folder, text, search=name)
        assert (picked.method, picked.step, picked.steps, picked.measured) == (method, None, None, False)
        assert (dict(picked.widths), dict(picked.costs)) == (row["widths"], row["costs"])
        assert picked.score is not None
        assert vars(picked.score) == {"loss": row["loss"], "accuracy": row["accuracy"]}
        assert picked.budget.holds(picked.costs, picked.base)
    monkeypatch.undo()
    metrics = json.loads((extract_picked(folder, picked, tmp_path / "mine") / "metrics.json").read_text())
    assert metrics["macs"] == found["found"][1]["costs"]["macs"] == sum_macs(load(tmp_path / "mine"))
    assert (metrics["method"], metrics["search_accuracy"]) == (method, found["found"][1]["accuracy"])


def sum_macs(model: torch.nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


def test_a_path_that_a_later_search_went_down_is_picked_from(folder: Path):
    found = search(folder, "greedy", "params<=40%")["found"][0]
    picked = pick_network(folder, "params<=40%", search="greedy-params-40")
    assert (picked.method, picked.step, dict(picked.widths)) == ("greedy", picked.steps, found["widths"])
    wider = pick_network(folder, "params<=70%", search="greedy-params-40")
    assert wider.step is not None
    assert 0 < wider.step < picked.step


def test_a_whole_network_that_needed_no_step_is_picked(folder: Path):
    search(folder, "greedy", "macs<=100%")
    picked = pick_network(folder, "macs<=100%", search="greedy-macs-100")
    assert picked.costs["macs"] == picked.base["macs"]


def test_what_was_not_searched_is_told_with_what_was_and_the_command(folder: Path):
    search(folder, "uniform", "macs<=50%", "params<=60%")
    name = "uniform-macs-50-params-60"
    again = r'autoslim search \S+ --method {} --budget "macs<=30%"$'
    told = rf"Budget 'macs<=30%': the search {name} left no path, and was asked for macs<=50%, params<=60%; .*"
    with pytest.raises(BudgetError, match=told + again.format("uniform")):
        pick_network(folder, "macs<=30%", search=name)
    told = rf"No search 'evolution-macs-30' in \S+; expected .*: {name} \(macs<=50%, params<=60%\)\. .*"
    with pytest.raises(RunFolderError, match=told + again.format("evolution")):
        pick_network(folder, "macs<=30%", search="evolution-macs-30")
    (folder / "searches" / name / "found.json").unlink()
    with pytest.raises(
        RunFolderError, match=r"`found\.json` is missing in \S+; expected a search that has ended\. Go on"
    ):
        pick_network(folder, "macs<=50%", search=name)
    (folder / "search.jsonl").write_text("")
    with pytest.raises(RunFolderError, match=r"`search\.jsonl` in \S+ has no steps; .*" + again.format("greedy")):
        pick_network(folder, "macs<=30%")


def test_the_command_that_a_search_tells_picks_what_it_found(folder: Path, tmp_path: Path, capsys):
    assert main(["search", str(folder), "--method", "uniform", "--budget", "macs<=50%"]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("A network of it: ")]
    command = shlex.split(told.removeprefix("A network of it: "))
    assert command[:2] == ["autoslim", "pick"]
    assert main([*command[1:-1], str(tmp_path / "mine")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("macs<=50%: found by uniform. macs ")
    assert lines[-1].endswith(
        f"this trains it as the run does, and tests it: autoslim retrain {folder} {tmp_path}/mine"
    )


# Latency ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heavy(tmp_path_factory) -> Path:
    """A run whose path ends far down in latency on any machine: convolutions of 64 channels, and little else."""
    place = tmp_path_factory.mktemp("heavy")
    (place / "net.py").write_text(NETWORK)
    train = TrainConfig(epochs_supernet=1, batch_size=256)
    config = RunConfig(
        model=f"{place}/net.py:wide", data="digits", input="1,16,16", budget=("macs<=8%",), search_images=32,
        baselines="none", retrain="none", out=str(place / "run"), train=train,
    )  # fmt: skip
    return run(config, shown=QUIET)


@pytest.mark.slow
def test_a_latency_is_measured_for_what_is_picked(heavy: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {path.name for path in heavy.iterdir()}
    picked = pick_network(heavy, "latency<=60%", shown=QUIET)
    assert picked.measured
    assert picked.step
    assert picked.costs["latency"] <= 0.60 * picked.base["latency"]
    assert {path.name for path in heavy.iterdir()} == before
