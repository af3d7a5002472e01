"""The examples run, in the order of their numbers, with public names only; what they promise about themselves holds."""

import ast
import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
STAGES = sorted(path.stem for path in EXAMPLES.glob("[1-6]_*.py"))
OWN = sorted(path.stem for path in EXAMPLES.glob("own_*.py"))
MOST_LINES = 80


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to work in, and torch's random state left as it was."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield tmp_path


def call(name: str, capsys) -> str:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_the_stages_hand_their_files_on(work, capsys):
    assert STAGES == ["1_trace", "2_supernet", "3_train", "4_search", "5_extract", "6_report"]
    told = {name: call(name, capsys) for name in STAGES[:-1]}
    assert "7 channel groups" in told["1_trace"]
    assert "same output" in told["2_supernet"]
    first, last = map(float, re.findall(r"\d+\.\d+", told["3_train"]))
    assert last < first
    shares = [int(share) for share in re.findall(r"(\d+)% of the MACs", told["4_search"])]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] <= 25
    (accuracy,) = re.findall(r"test accuracy (\d+\.\d)%", told["5_extract"])
    assert float(accuracy) > 80  # guessing gives 10
    assert {path.name for path in (work / "runs" / "examples").iterdir()} == {
        "graph.json", "supernet.pt", "widths.json", "slim.pt"
    }  # fmt: skip


@pytest.mark.slow
def test_the_last_stage_leaves_a_report(work, capsys):
    for times in (1, 2):  # a second time, too
        assert "slim: " in call("6_report", capsys)
        assert len(list((work / "runs" / "examples").glob("run-*/report.html"))) == times


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_examples_of_ones_own_run(name, work, capsys):
    assert call(name, capsys)
    assert call(name, capsys)  # a second time, too


@pytest.mark.slow
def test_the_foreign_loop_is_whole_without_the_marked_lines(work, capsys):
    """What is marked is all that was changed: without it the script is an ordinary training, and as it was."""
    source = (EXAMPLES / "own_loop.py").read_text().split('"""', 2)[2]
    added = [line for line in source.splitlines() if "  # +" in line]
    assert 12 <= len(added) <= 18
    plain = "\n".join(line for line in source.splitlines() if line not in added).replace("# - ", "")
    assert "autoslim" not in plain
    exec(compile(plain, "plain", "exec"), {})
    before = capsys.readouterr().out
    after = call("own_loop", capsys)
    (wide, right), (slim, kept) = ([float(n) for n in re.findall(r"\d+\.?\d*", text)] for text in (before, after))
    assert slim < 0.5 * wide
    assert right > 90
    assert kept > 50


@pytest.mark.parametrize("name", [*STAGES, *OWN])
def test_examples_are_short_and_use_public_names(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoslim"):
            names += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    assert [each for each in names if re.match(r"_[^_]", each)] == []
