"""The command line: its help is a golden file, its errors are told in one line, its exit codes can be relied on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoslim import ChannelGraph
from autoslim.cli import main

GOLDEN = Path(__file__).parent / "golden"


def call(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-m", "autoslim", *args], capture_output=True, text=True, env=env, cwd=cwd, timeout=240
    )


@pytest.mark.parametrize(
    ("name", "args"),
    [("help", ["--help"]), *((f"help_{name}", [name, "--help"]) for name in ("run", "trace", "profile"))],
)
def test_help_is_golden(name, args):
    """It can't grow unseen: `AUTOSLIM_WRITE_GOLDEN=1 pytest tests/test_cli.py` writes it anew."""
    result = call(*args)
    assert result.returncode == 0, result.stderr
    text = "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AUTOSLIM_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_trace_prints_json_that_reads_back(capsys):
    assert main(["trace", "zoo:resnet_digits", "--input", "1,1,8,8", "--json"]) == 0
    graph = ChannelGraph.from_json(json.loads(capsys.readouterr().out))
    assert graph.inputs == ((1, 1, 8, 8),)


def test_trace_prints_a_table_with_the_reasons(capsys):
    assert main(["trace", "zoo:resnet_digits", "--input", "1,8,8"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the network's output" in out
    assert "0.76M widest" in out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["rnu"], "autoslim: Unknown command 'rnu'. Closest: run"),
        (["run", "digit"], "autoslim: Unknown recipe 'digit'. Closest: digits."),
        (["run", "--budget", "mac<=50%"], "autoslim: Unknown cost 'mac'. Closest: macs."),
        (["run", "--budget", "macs<=1%"], "autoslim: "),
        (["run", "--model", "zoo:resnet_digit"], "autoslim: Unknown"),
        (["run", "--model", "torchvision:mobilnet_v2"], "autoslim: Unknown"),
        (["run", "--data", "digts"], "autoslim: Unknown"),
        (["run", "--data", "folder:nowhere"], "autoslim: folder:nowhere"),
        (["run", "--input", "3,x"], "autoslim: Input shape '3,x': expected channels,height,width."),
        (["run", "--resume", "nowhere"], "autoslim: `run.json` is missing in nowhere."),
    ],
)  # fmt: skip
def test_errors_are_told_without_a_traceback_and_leave_nothing(args, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(told)
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--budget", "macs<50%"], "Budget 'macs<50%': can't read 'macs<50%'; expected metric<=number with"),
        (["--search-images", "0"], "RunConfig.search_images is 0; expected at least 1."),
        (["--lr", "-1"], "TrainConfig.lr is -1.0; expected above 0. Give another --lr"),
        (["--weight-decay", "-1"], "TrainConfig.weight_decay is -1.0; expected 0 or more."),
        (["--momentum", "1.5"], "TrainConfig.momentum is 1.5; expected 0 or more, below 1."),
        (["--budget", "macs<=50", "--budget", "macs<=50%"], "would share the folder 'macs-50'"),
    ],
)
def test_settings_that_do_not_fit_are_told_with_the_option(args, told, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", *args])
    assert stop.value.code == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in err


def test_an_unknown_option_is_told_with_the_closest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--bugdet", "macs<=50%"])
    assert stop.value.code == 2
    assert "--budget" in capsys.readouterr().err


def test_given_budgets_replace_the_recipes(tmp_path):
    out = tmp_path / "out"
    options = ["--epochs-supernet", "1", "--epochs-retrain", "1", "--baselines", "none", "--search-images", "50"]
    model = ["--model", "zoo:resnet_digits?width=8"]
    result = call("run", *model, "--budget", "macs<=60%", "--budget", "params<=70%", "--out", str(out), *options)
    assert result.returncode == 0, result.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert [row["budget"] for row in summary["budgets"]] == ["macs<=60%", "params<=70%"]
    assert summary["command"].startswith("autoslim run digits --model 'zoo:resnet_digits?width=8'")
    stages = ["data", "trace", "supernet", "search", "search", "retrain", "retrain", "test", "test", "report"]
    assert [line.split()[0] for line in result.stdout.splitlines()] == stages
    assert (out / "report.html").exists()


def test_the_process_is_set_where_it_starts():
    code = (
        "import os; from autoslim._process import set_process; set_process();"
        "assert os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] == '16384'"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
