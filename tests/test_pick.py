"""A network for any budget from a finished search's path: the search's own where it was asked for it, and no search."""

import json
from pathlib import Path

import pytest
import torch

from autoslim import load
from autoslim.budget import Budget
from autoslim.cli import main
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.extract import extract_network
from autoslim.pick import extract_picked, pick_network
from autoslim.pipeline import reopen_job
from autoslim.progress import Shown


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
    with pytest.raises(BudgetError, match=r"Budget 'macs<=5%': the search's path ends at macs \d+ \(\d+\.\d%\)"):
        pick_network(finished, "macs<=5%")
    with pytest.raises(RunFolderError, match=r"`search\.jsonl` in .*elsewhere has no steps"):
        pick_network(finished, "macs<=50%", search="elsewhere")
    with pytest.raises(RunFolderError, match=r"`run\.json` is missing"):
        pick_network(finished / "models", "macs<=50%")


def test_what_is_extracted_is_what_the_supernet_predicted(finished: Path, tmp_path: Path, capsys):
    folder = tmp_path / "mine"
    assert main(["pick", str(finished), "--budget", "macs<=45%", "--extract", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["retrained"], metrics["macs"]) == (False, told["costs"]["macs"])
    assert metrics["search_accuracy"] == told["score"]["accuracy"]
    job = reopen_job(finished, shown=Shown(quiet=True))
    job.train_supernet()
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


@pytest.mark.slow
def test_a_latency_is_measured_for_what_is_picked(finished: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {path.name for path in finished.iterdir()}
    picked = pick_network(finished, "latency<=95%", shown=Shown(quiet=True))
    assert picked.measured
    assert picked.costs["latency"] <= 0.95 * picked.base["latency"]
    assert {path.name for path in finished.iterdir()} == before
