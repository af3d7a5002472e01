"""What scripts and shells rely on: JSON alone on standard output, silence when asked for, completion that works."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from autoslim.cli import _COMMANDS, main
from autoslim.progress import Shown

SUMMARY = {"_type": "Summary", "budgets": []}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Every run ends at once, after a word, and leaves a summary."""

    def work(*_: object, shown: Shown, **__: object) -> Path:
        shown.line("a word")
        (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
        return tmp_path

    for name in ("run", "resume"):
        monkeypatch.setattr(f"autoslim.cli.run.{name}", work)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("what", [["digits"], ["--resume", "somewhere"]])
def test_a_run_tells_much_or_json_or_nothing(what, capsys):
    assert main(["run", *what]) == 0
    assert capsys.readouterr().out == "a word\n"
    assert main(["run", *what, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (Path(told.pop("folder")) / "summary.json").exists()
    assert told == SUMMARY
    assert main(["run", *what, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_plan_is_json_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "digits", "--model", "zoo:resnet_digits?width=8", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["_type"], [reach["budget"] for reach in plan["budgets"]]) == ("Plan", ["macs<=50%", "macs<=25%"])
    assert list(tmp_path.iterdir()) == []


ORDER = {"tau": 0.5, "low": 0.1, "high": 0.9, "within": None, "within_low": None, "within_high": None}
TRUST = {
    "orders": {"loss": ORDER, "macs": ORDER}, "gain": [0.1, 0.0, 0.2], "samples": 4, "epochs": 1, "images": 9,
    "image_macs": 1.0,
}  # fmt: skip


def test_trust_tells_much_or_json_or_nothing(capsys, monkeypatch):
    monkeypatch.setattr("autoslim.cli.trust.measure_trust", lambda *_, **__: TRUST)
    assert main(["trust", "run"]) == 0
    assert "supernet, loss" in capsys.readouterr().out
    assert main(["trust", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == TRUST
    assert main(["trust", "run", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def complete(script: str, line: str) -> set[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    typed = f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _autoslim; "
    command = [shutil.which("bash") or "bash", "-c", f'{script}\n{typed} printf "%s\\n" "${{COMPREPLY[@]}}"']
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is bash's")
def test_bash_completes(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(script, "autoslim ") == set(_COMMANDS)
    assert complete(script, "autoslim tr") == {"trace", "trust"}
    assert complete(script, "autoslim run dig") == {"digits"}
    assert complete(script, "autoslim run digits --epochs-s") == {"--epochs-supernet"}
    assert complete(script, "autoslim run digits --method ev") == {"evolution"}
    assert complete(script, "autoslim run digits --baselines b") == {"base", "base,uniform"}
    assert complete(script, "autoslim search runs/digits --runtime open") == {"openvino"}
    assert complete(script, "autoslim trace --js") == {"--json"}
    assert complete(script, "autoslim doctor --self") == {"--self-test"}
    assert main(["completion", "zsh"]) == 0
    assert script.splitlines()[1:] == capsys.readouterr().out.splitlines()[3:]


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["completion", "fish"])
    assert stop.value.code == 2
    assert "zsh" in capsys.readouterr().err
