"""The page on tasks of one's own: its code is run as it stands there."""

import json
import re
import shlex
from pathlib import Path

import pytest

import autoslim
from autoslim.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "my-task.md"


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    found = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {kind: [text for name, text in found if name == kind] for kind in ("python", "sh")}


def test_the_task_has_about_thirty_lines(blocks):
    assert len([line for line in blocks["python"][0].splitlines() if line.strip()]) <= 30


def test_the_pages_code_runs_from_end_to_end(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task, data, contract = blocks["python"]
    Path("regression.py").write_text(task + data)
    exec(compile(task + contract, "my-task.md", "exec"), {})
    program, *args = shlex.split(blocks["sh"][0])
    assert program == "autoslim"
    short = ["--epochs-supernet", "3", "--epochs-retrain", "3", "--lr", "0.02", "--tracker", "none", "--workers", "0"]
    assert main([*args, *short, "--budget", "macs<=50%", "--out", "run", "--finalists", "2"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"test +your own network: 0\.\d+ mean absolute error at", told)
    assert re.search(r"'found' against 'uniform': [+-][\d.e-]+ mean absolute error less, standard error", told)
    summary = json.loads(Path("run/summary.json").read_text())
    config = json.loads(Path("run/models/macs-50/config.json").read_text())
    assert config["task"] == f"{tmp_path.resolve()}/regression.py:Regression"
    assert (summary["_version"], summary["task"]) == (2, "regression")
    assert summary["metric"] == {"name": "mean absolute error", "higher": False, "share": False}
    scores = [summary["base"]["score"]["test"], *summary["budgets"][0]["score"].values()]
    assert all(0 < score < 0.5 for score in scores)
    steps = [json.loads(line)["accuracy"] for line in Path("run/search.jsonl").read_text().splitlines()]
    assert steps
    assert max(steps) < 0  # more is better there
    page = Path("run/report.html").read_text()
    assert "Mean absolute error against cost" in page
    assert "of mean absolute error less is better" in page
    assert '"share":false' in page
    assert autoslim.load("run/models/macs-50").head.out_features == 1
    assert main(["run", "--resume", "run", "--quiet"]) == 0
    assert main(["pick", "run", "--budget", "macs<=80%"]) == 0
    assert "predicted: mean absolute error 0." in capsys.readouterr().out
    assert main(["search", "run", "--method", "uniform"]) == 0
    assert "search mean absolute error" in " ".join(capsys.readouterr().out.split())
    assert main(["trust", "run", "--samples", "4", "--epochs", "1"]) == 0
    assert "order against mean absolute error alone" in " ".join(capsys.readouterr().out.split())
    monkeypatch.chdir(tmp_path.parent)  # the task's file is found from any folder
    assert main(["pick", str(tmp_path / "run"), "--budget", "macs<=80%"]) == 0
    assert main(["export", str(tmp_path / "run/models/macs-50"), "--random", "--to", "state-dict"]) == 0
