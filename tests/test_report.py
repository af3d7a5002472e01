"""The report: what it says of a run, what it says where a stage was not run, and that nothing gets out of it or in."""

import importlib.resources
import json
import os
import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from autoslim import make_cost, trace_channels
from autoslim.cli import main
from autoslim.errors import ConfigError, RunFolderError
from autoslim.graph import ChannelGraph, Group
from autoslim.models import build_model
from autoslim.report import write_comparison, write_png, write_report
from autoslim.report.page import render_page, script_json
from autoslim.report.read import read_summary
from autoslim.report.run import Run, read_run, read_runs
from autoslim.report.style import SCRIPT
from autoslim.report.table import EMPTY
from autoslim.report.text import NOT_RUN, outcome, say_count, say_difference, say_score, say_seconds, say_share
from autoslim.tasks import Metric

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
HOSTILE = "</script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"&<b>{x}%{y}$z"


# A made-up run --------------------------------------------------------------------------------------------------------


def make_graph(*, name: str = "features.0") -> ChannelGraph:
    groups = (
        Group(name, 32, 1, (8, 16, 32), layers=(name,)),
        Group("features.1", 64, 1, (16, 32, 64), note="its mean is over fewer channels", layers=("features.1",)),
        Group("head", 10, 1, (10,), frozen="a model output", layers=("head", "head.bias")),
    )
    return ChannelGraph(groups, (), (), (), (), (), inputs=((1, 3, 32, 32),), notes=("the probe found nothing",))


def make_budget(budget: str, share: float, test: float | None, uniform: float | None, **more: Any) -> dict[str, Any]:
    return {
        "budget": budget,
        "folder": "models/some",
        "widths": {"features.0": 16, "features.1": 32, "head": 10},
        **{"macs": 9_800_000 * share, "params": 2_000_000 * share, "memory": 3_000_000 * share},
        "accuracy": {"search": 0.941, "supernet": 0.937, "test": test},
        "uniform": {
            "ratio": 0.7,
            **{"macs": 9_702_000 * share, "params": 2_000_000 * share, "memory": 3_000_000 * share},
            "accuracy": {"test": uniform},
        },
        **more,
    }


def make_summary(**changes: Any) -> dict[str, Any]:
    return {
        "_type": "Summary",
        "_version": 1,
        "model": "zoo:mobilenet_small",
        "data": "hf:digits",
        "task": "classification",
        "metric": "accuracy",
        "seed": 7,
        "input": [[1, 3, 32, 32]],
        "base": {"macs": 9_800_000, "params": 2_000_000, "memory": 3_000_000, "accuracy": {"test": 0.97}},
        "budgets": [make_budget("macs<=50%", 0.5, 0.961, 0.952), make_budget("params<=25%", 0.25, 0.93, 0.941)],
        "seconds": {"trace": 0.4, "train": 200.0, "search": 59.99, "retrain": None},
        "versions": {"torch": "2.8.0"},
        "command": "autoslim run --budget 'macs<=50%'",
        "notes": ["two images were skipped"],
        **changes,
    }


def make_step(step: int, **changes: Any) -> dict[str, Any]:
    return {
        **{"_type": "Step", "_version": 2, "step": step, "group": "features.1", "before": 64, "after": 32},
        **{"loss": 0.2, "accuracy": 0.95 - step / 100, "widths": {"features.0": 32, "features.1": 32, "head": 10}},
        "costs": {"macs": 9e6 - 1e6 * step, "params": 1e6, "memory": 1e6},
        **changes,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fill(tmp_path)


def fill(
    folder: Path,
    *,
    summary: dict[str, Any] | None = None,
    steps: list[dict[str, Any]] | None = None,
    graph: ChannelGraph | None = None,
) -> Path:
    steps = [make_step(1), make_step(2)] if steps is None else steps
    (folder / "summary.json").write_text(json.dumps(summary or make_summary()), encoding="utf-8")
    (folder / "search.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    (folder / "graph.json").write_text(json.dumps((graph or make_graph()).to_json()), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """The elements of a page, the texts outside scripts, and the rows of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.captions: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "input"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif "style" in self._open:
            self.styles.append(data)
        else:
            self.texts.append(data)
            if self._open and self._open[-1] == "caption":
                self.captions.append(data)
            if "td" in self._open or "th" in self._open:
                self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def table(self, caption: str) -> list[list[str]]:
        """Rows of the table with that beginning of a caption, its headings first."""
        (table,) = [rows for told, rows in zip(self.captions, self.tables, strict=True) if told.startswith(caption)]
        return table

    def results(self) -> list[list[str]]:
        """Rows of the main table below its headings."""
        return self.table("Cost and ")[1:]

    def drawn(self, run: int = 0) -> dict[str, Any]:
        """What the script draws of a run."""
        return json.loads(self.scripts[0])["runs"][run]


def page_of(*folders: Path) -> Page:
    page = Page(render_page([read_run(folder) for folder in folders]))
    assert page._open == []
    return page


# Self-contained -------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_asks_for_nothing(run: Path) -> None:
    file = write_report(run)
    text = file.read_text(encoding="utf-8")
    page = Page(text)

    assert file == run / "report.html"
    assert file.stat().st_size < 100_000
    assert not [(tag, attrs) for tag, attrs in page.elements if {"src", "href", "srcset", "action"} & set(attrs)]
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed", "base")]
    assert not re.search(r"@import|url\(|@font-face|https?:", "".join(page.styles))
    assert re.findall(r"https?://[\w./]+", "".join(page.scripts) + page.text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|import\(|eval)\b", SCRIPT)


def test_the_browser_is_told_to_fetch_nothing(run: Path) -> None:
    policies = [
        attrs["content"]
        for tag, attrs in page_of(run).elements
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"]


def test_script_and_looks_lie_beside_the_modules_of_the_installed_package() -> None:
    files = {entry.name for entry in importlib.resources.files("autoslim.report").iterdir()}
    assert {"chart.js", "page.js", "page.css"} <= files


# What it says ---------------------------------------------------------------------------------------------------------


def test_header_names_the_run_and_tells_every_outcome_in_a_sentence(run: Path) -> None:
    text = page_of(run).text
    assert f"zoo:mobilenet_small data hf:digits task classification seed 7 input 1{TIMES}3{TIMES}32{TIMES}32" in text
    assert (
        "macs<=50% 96.1% at 4.9M MACs, 50% of your network's; your own network 97.0%; uniform 95.2%. "
        "params<=25% 93.0% at 500k parameters, 25% of your network's; your own network 97.0%; uniform 94.1%."
    ) in text


def test_the_arguments_of_a_model_stand_below_its_name(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path, summary=make_summary(model="torchvision:mobilenet_v2?width_mult=0.5&x=1")))
    assert "torchvision:mobilenet_v2 width_mult=0.5&x=1 data" in page.text


def test_table_starts_with_the_users_own_network(run: Path) -> None:
    assert page_of(run).results() == [
        ["your network", "97.0%", EMPTY, "9.8M", "2M", "3M", "100%", *[EMPTY] * 4],
        [
            *("AutoSlim macs<=50%", "96.1%", f"{MINUS}0.9", "4.9M", "1M", "1.5M", "50%"),
            *("94.1%", "93.7%", EMPTY, EMPTY),
        ],
        [
            *("uniform macs<=50%, ratio 0.7", "95.2%", f"{MINUS}1.8", "4.85M", "1M", "1.5M", "49.5%"),
            *(EMPTY, EMPTY, f"{MINUS}1.0% MACs", f"{MINUS}0.9"),
        ],
        [
            *("AutoSlim params<=25%", "93.0%", f"{MINUS}4.0", "2.45M", "500k", "750k", "25%"),
            *("94.1%", "93.7%", EMPTY, EMPTY),
        ],
        [
            *("uniform params<=25%, ratio 0.7", "94.1%", f"{MINUS}2.9", "2.43M", "500k", "750k", "24.8%"),
            *(EMPTY, EMPTY, "0.0% parameters", "+1.1"),
        ],
    ]


def test_a_table_row_has_as_many_cells_as_the_table_has_columns(run: Path) -> None:
    for table in page_of(run, run).tables:
        assert {len(row) for row in table} == {len(table[0])}


def test_a_number_in_a_table_carries_what_it_is_sorted_by(run: Path) -> None:
    cells = [attrs["data-v"] for tag, attrs in page_of(run).elements if tag == "td" and "data-v" in attrs]
    assert {"9800000", "0.961", "-0.9"} <= set(cells)
    dashes = [row[2] for row in page_of(run).results() if row[2] == EMPTY]
    assert len(dashes) == 1  # and has no number: it stays last


def test_the_page_is_built_for_reading_aloud(run: Path) -> None:
    page = page_of(run)
    counts = {tag: sum(tag == other for other, _ in page.elements) for tag, _ in page.elements}
    assert counts["h1"] == 1
    assert counts["table"] == counts["caption"]
    assert counts["figure"] == counts["figcaption"] == 2
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")
    assert [attrs for _, attrs in page.elements if attrs.get("aria-live") == "polite" and attrs.get("role") == "status"]
    alts = [attrs["data-alt"] or "" for _, attrs in page.elements if "data-alt" in attrs]
    assert "3 groups of layers, 1 of them frozen. macs<=50% keeps 54.7% of all channels" in alts[0]
    assert "2 steps, from 8M MACs at 94.0% to 7M MACs at 93.0%" in alts[1]
    assert "params<=25%: AutoSlim 93.0%, uniform 94.1%." in alts[1]


def test_frozen_groups_stages_versions_command_and_notes_are_told(run: Path) -> None:
    page = page_of(run)
    assert page.table("Channels of each group")[1:] == [
        ["features.0", "32", "16", "16"],
        ["features.1", "64", "32", "32"],
        ["head", "10", "10", "10"],
    ]
    assert page.table("Groups of layers that keep")[1:] == [["head", "10", "a model output", "head, head.bias"]]
    assert page.table("Time per stage")[1:] == [
        *(["trace", "0.4 s"], ["train", "3 min 20 s"], ["search", "1 min 00 s"], ["retrain", NOT_RUN]),
        ["all", "4 min 20 s"],
    ]
    assert page.table("Versions")[1:] == [["torch", "2.8.0"]]
    assert "(seed 7): autoslim run --budget 'macs<=50%'" in page.text
    for note in ("two images were skipped", "the probe found nothing", "features.1: its mean is over fewer channels"):
        assert note in page.text
    assert page.text.count("Each run has one seed") == 1


def test_another_metric_gives_the_pictures_their_names(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path, summary=make_summary(metric="mIoU")))
    assert "MIoU against cost" not in page.text
    assert "mIoU against cost" in page.text


# What is drawn --------------------------------------------------------------------------------------------------------


def test_every_step_of_the_search_is_a_position_of_the_slider(run: Path) -> None:
    drawn = page_of(run).drawn()
    assert drawn["groups"][2] == {"name": "head", "size": 10, "frozen": "a model output"}
    first, *steps = drawn["steps"]
    assert (first["widths"], first["score"]) == ([32, 64, 10], None)
    assert [step["widths"] for step in steps] == [[32, 32, 10]] * 2
    assert [(step["group"], step["from"], step["score"]) for step in steps] == [
        (1, 64, pytest.approx(score)) for score in (0.94, 0.93)
    ]
    assert steps[0]["costs"] == {"macs": 8e6, "params": 1e6, "memory": 1e6}
    assert drawn["path"] is True


def test_steps_that_are_not_nested_are_no_path(tmp_path: Path) -> None:
    wider = {"features.0": 32, "features.1": 64, "head": 10}
    assert page_of(fill(tmp_path, steps=[make_step(1), make_step(2, widths=wider)])).drawn()["path"] is False


def test_a_uniform_network_that_is_not_at_its_limit_says_so(tmp_path: Path) -> None:
    budget = make_budget("macs<=50%", 0.5, 0.961, 0.952)
    note = budget["uniform"]["note"] = "12.3% below the limit: the next wider candidates break it"
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget])))
    assert f"uniform macs<=50%, ratio 0.7; {note}" in [row[0] for table in page.tables for row in table]


def test_the_networks_of_every_budget_are_drawn_at_their_costs(run: Path) -> None:
    drawn = page_of(run).drawn()
    first, second = drawn["found"]
    assert (first["widths"], first["score"]) == ([16, 32, 10], 0.941)
    assert (first["slim"]["costs"]["macs"], first["slim"]["test"]) == (4_900_000, 0.961)
    assert (second["uniform"]["costs"]["params"], second["uniform"]["test"]) == (500_000, 0.941)
    assert (drawn["own"]["costs"]["macs"], drawn["own"]["test"]) == (9_800_000, 0.97)


def test_optional_costs_become_columns(tmp_path: Path) -> None:
    more = {"peak_memory": 5_000_000, "latency": 4.2}
    base = make_summary()["base"] | more
    budget = make_budget("latency<=50%", 0.5, 0.9, None, peak_memory=2_500_000, latency=2.1) | {"uniform": None}
    page = page_of(fill(tmp_path, summary=make_summary(base=base, budgets=[budget])))
    assert page.table("Cost and ")[0][6:8] == ["peak memory", "latency"]
    assert "Latencies are predicted, and under a limit of latency measured: AutoSlim's and uniform's." in page.text
    assert page.results()[1][6:8] == ["2.5MB", "2.1 ms"]
    assert "90.0% at 2.1 ms, 50% of your network's" in page.text
    assert page.drawn()["metrics"] == ["macs", "params", "memory", "peak_memory", "latency"]


# What else a run leaves -----------------------------------------------------------------------------------------------


def write(file: Path, kind: str, **fields: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"_type": kind, "_version": 1, **fields}), encoding="utf-8")


def test_losses_of_all_trainings_are_curves(run: Path) -> None:
    assert " Training " not in page_of(run).text
    write(run / "training.json", "Training", supernet_loss=[4.0, 2.0])
    write(run / "models" / "base" / "metrics.json", "Metrics", losses=[2.0, float("nan")])
    write(run / "models" / "some" / "uniform" / "metrics.json", "Metrics", losses=[])
    page = page_of(run)
    curves = [(curve["name"], curve["kind"], curve["losses"]) for curve in page.drawn()["curves"]]
    assert curves == [("supernet", "supernet", [4.0, 2.0]), ("your network", "base", [2.0, None])]
    assert "Last losses: supernet 2; your network not finite." in str(page.elements)


def test_widths_of_the_baselines_can_be_held_beside(run: Path) -> None:
    widths = {"features.0": 22, "features.1": 45, "head": 10}
    write(run / "models" / "some" / "uniform" / "widths.json", "Widths", widths=widths)
    marks = page_of(run).drawn()["marks"]
    assert marks[0] == {"name": "uniform, macs<=50%", "budget": 0, "widths": [22, 45, 10]}
    write(run / "models" / "some" / "uniform" / "widths.json", "Widths", widths={"features.0": 22})
    assert "widths do not fit the run's graph.json" in check_error(run, None)


def test_scored_networks_are_priced_anew_and_a_torn_line_is_passed_over(run: Path) -> None:
    widths = {"features.0": 8, "features.1": 16, "head": 10}
    line = json.dumps({"_type": "Score", "_version": 1, "key": "k", "loss": 0.1, "accuracy": 0.8, "widths": widths})
    (run / "scores.jsonl").write_text(f"{line}\n{line}\n{line[:50]}")
    (one,) = page_of(run).drawn()["scored"]
    image = 3 * 32 * 32 * 4  # bytes; the made-up network has no operators
    assert one == {"score": 0.8, "costs": {"macs": 0, "params": 0, "memory": 0, "peak_memory": image}}


def test_other_searches_are_told(run: Path) -> None:
    found = {"budget": "macs<=50%", "accuracy": 0.9, "costs": {"macs": 4e6, "params": 1e6, "memory": 1e6}}
    write(run / "searches" / "random" / "found.json", "Found", method="random", found=[found])
    page = page_of(run)
    assert page.table("Further searches")[1:] == [["macs<=50%", "random", "90.0%", "4M", "1M", "1M"]]
    assert page.drawn()["again"][0]["name"] == "random, macs<=50%"


def test_settings_are_told_with_their_nested_names(run: Path) -> None:
    write(run / "run.json", "Run", config={"seed": 7, "budget": ["a", "b"], "train": {"lr": 0.1}})
    rows = page_of(run).table("Settings")[1:]
    assert rows == [["seed", "7"], ["budget", "a, b"], ["train.lr", "0.1"]]


def test_latency_is_predicted_from_other_networks_than_the_measured_one(tmp_path: Path) -> None:
    graph = trace_channels(build_model("zoo:resnet_digits"), torch.zeros(1, 1, 8, 8))
    names = [group.name for group in graph.groups]
    rng, macs = random.Random(0), make_cost("macs", graph)
    tried = [{group.name: rng.choice(group.candidates) for group in graph.groups} for _ in range(16)]
    rows = [
        {"widths": list(each.values()), "ratio": macs(each) / 1e5, "low": 1, "high": 1, "anchor": 2.0, "repeats": 3}
        for each in tried
    ]
    slim = dict(graph.min_widths())
    summary = make_summary(budgets=[make_budget("macs<=50%", 0.5, 0.9, 0.9, widths=slim)])
    fill(tmp_path, summary=summary, steps=[], graph=graph)
    measured = [{"widths": slim, "ms": 1.1 * 2 * macs(slim) / 1e5}]
    write(tmp_path / "latency.json", "LatencyCost", setting={"runtime": "torch"}, rows=rows, measured=measured)
    page = page_of(tmp_path)
    latency = page.drawn()["latency"]
    assert [pair[1] for pair in latency["pairs"]] == pytest.approx([2 * macs(each) / 1e5 for each in tried])
    assert [pair[0] for pair in latency["pairs"]] == pytest.approx([pair[1] for pair in latency["pairs"]], rel=0.2)
    assert [pair[0] for pair in latency["pairs"]] != [pair[1] for pair in latency["pairs"]]
    (found,) = latency["found"]
    assert (found["budget"], found["name"]) == (0, "macs<=50%")
    assert found["measured"] == pytest.approx(measured[0]["ms"])
    assert page.table("Found networks")[1][0] == "macs<=50%"
    rows[3]["widths"] = [5] * len(names)
    write(tmp_path / "latency.json", "LatencyCost", setting={}, rows=rows, measured=[])
    assert "rows[3].widths do not fit the run's graph.json" in check_error(tmp_path, None)
    write(tmp_path / "latency.json", "LatencyCost", setting={}, rows=[], measured=[])
    assert "rows is '[]' (list); expected measured networks." in check_error(tmp_path, None)


def test_samples_are_drawn_before_all_of_them_are_there(run: Path) -> None:
    sample = {
        **{"_type": "TrustSample", "_version": 1, "stratum": 1, "epochs": 2, "macs": 2e6},
        **{"alone_accuracy": 0.5, "supernet_accuracy": 0.4},
    }
    (run / "trust.jsonl").write_text(json.dumps(sample) + "\n" + json.dumps({**sample, "macs": 1e6}) + "\n")
    page = page_of(run)
    assert [point["alone"] for point in page.drawn()["trust"]["points"]] == [0.5, 0.5]
    assert page.drawn()["trust"]["edges"] == [1e6, 1.5e6, 2e6]
    assert (
        "2 sub-networks drawn at random, each trained alone for 2 epochs. The measurement is not finished" in page.text
    )
    assert "--samples 2 --epochs 2" in page.text


# Several runs, and pictures -------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    own = {**make_summary()["base"], "accuracy": {"test": 0.5}}
    return fill(tmp_path / "one"), fill(tmp_path / "other", summary=make_summary(base=own, seed=8), steps=[])


def test_several_runs_share_a_table_and_a_page(two: tuple[Path, Path], tmp_path: Path) -> None:
    file = write_comparison(two, tmp_path / "both.html")
    page = Page(file.read_text(encoding="utf-8"))
    assert "2 runs side by side" in page.text
    rows = page.results()
    assert [row[:3] for row in rows if row[0] == "your network"] == [
        ["your network", "one", "97.0%"],
        ["your network", "other", "50.0%"],
    ]
    assert [page.drawn(index)["name"] for index in (0, 1)] == ["one", "other"]
    figures = [attrs["data-run"] for tag, attrs in page.elements if tag == "figure" and attrs["class"] == "slim"]
    assert figures == ["0", "1"]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "monday" / "run", tmp_path / "tuesday" / "run"]
    for folder in folders:
        folder.mkdir(parents=True)
        fill(folder)
    assert [run.name for run in read_runs(folders)] == ["monday/run", "tuesday/run"]
    assert [run.name for run in read_runs(folders[:1])] == ["run"]


def test_the_command_writes_anew_and_tells_where(
    run: Path, two: tuple[Path, Path], capsys: Any, monkeypatch: Any
) -> None:
    assert main(["report", str(run)]) == 0
    assert f"{run / 'report.html'} (" in capsys.readouterr().out
    monkeypatch.chdir(run)
    assert main(["report", *map(str, two)]) == 0
    assert "2 runs side by side" in (run / "reports.html").read_text(encoding="utf-8")
    assert main(["report"]) == 2
    assert "no run was given; expected the folder of a finished run" in capsys.readouterr().err
    assert main(["report", str(run / "nothing")]) == 2
    assert "expected the summary.json that a run leaves there" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_still_for_papers(two: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    runs = list(map(read_run, two))
    one, both = (
        write_png(some, tmp_path / f"{name}.{ending}", metric="params") for name, some in (("a", runs[:1]), ("b", runs))
    )
    if ending == "png":
        assert (height_of(both) - height_of(one)) > 300  # a row of bars for each run
        assert one.read_bytes() != both.read_bytes()
    else:
        assert both.read_text().count("<!-- features.1 -->") >= 1
        assert "other: AutoSlim" in both.read_text()


def height_of(png: Path) -> int:
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[20:24], "big")


def test_a_still_says_what_it_lacks(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Run] = [read_run(run)]
    with pytest.raises(ConfigError, match=r"--axis is 'latency'; expected .*: macs, params, memory. Choose one"):
        write_png(runs, tmp_path / "a.png", metric="latency")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RunFolderError, match=r"needs matplotlib .* expected .* with pip install \"matplotlib>="):
        write_png(runs, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_still_with_an_unknown_ending(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(RunFolderError, match=r"a\.txt`: can't be written .* Give another --png"):
        write_png([read_run(run)], tmp_path / "a.txt")


# Not run --------------------------------------------------------------------------------------------------------------


def test_without_baseline_the_uniform_row_says_not_run(tmp_path: Path) -> None:
    budget = make_budget("macs<=50%", 0.5, 0.961, None) | {"uniform": None}
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget])))
    assert page.results()[-1] == ["uniform macs<=50%", *[NOT_RUN] * 10]
    assert "uniform not run." in page.text
    assert page.drawn()["found"][0]["uniform"] is None


def test_without_retraining_the_supernets_accuracy_is_told_instead(tmp_path: Path) -> None:
    budget = make_budget("macs<=50%", 0.5, None, None)
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget])))
    assert page.results()[1][1:3] == [NOT_RUN, NOT_RUN]
    assert page.results()[1][7:9] == ["94.1%", "93.7%"]
    assert page.results()[2][7:] == [EMPTY, EMPTY, f"{MINUS}1.0% MACs", NOT_RUN]
    assert "Retraining not run; 94.1% in the supernet on search images, at 4.9M MACs, 50%" in page.text
    assert page.drawn()["found"][0]["slim"]["test"] is None


@pytest.mark.parametrize("accuracy", [None, {"test": None}, {}])
def test_without_the_users_accuracy_nothing_is_compared_with_it(
    tmp_path: Path, accuracy: dict[str, None] | None
) -> None:
    base = {**make_summary()["base"], "accuracy": accuracy}
    page = page_of(fill(tmp_path, summary=make_summary(base=base)))
    assert page.results()[0][1] == NOT_RUN
    assert page.results()[1][1:3] == ["96.1%", NOT_RUN]
    assert "your own network not run" in page.text
    assert page.drawn()["own"]["test"] is None


def test_nothing_was_run_at_all(tmp_path: Path) -> None:
    summary = make_summary(budgets=[], base={**make_summary()["base"], "accuracy": None}, seconds={}, versions={})
    del summary["command"], summary["notes"]
    page = page_of(fill(tmp_path, summary=summary, steps=[]))
    assert [step["widths"] for step in page.drawn()["steps"]] == [[32, 64, 10]]
    assert "No budget was asked for." in page.text
    assert "The search accepted no step." in page.text
    assert "To make this again" not in page.text
    assert "0.0%" not in page.text


def test_a_network_without_frozen_groups_and_notes(tmp_path: Path) -> None:
    graph = ChannelGraph((Group("a", 8, 1, (4, 8)),), (), (), (), (), (), inputs=((1, 3, 8, 8),))
    budget = make_budget("macs<=50%", 0.5, 0.9, 0.9, widths={"a": 4})
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget], notes=None), steps=[], graph=graph))
    assert "None: every group of layers could be narrowed." in page.text
    assert " Notes " not in page.text


def test_more_budgets_than_colours(tmp_path: Path) -> None:
    budgets = [make_budget(f"macs<={90 - k}%", 0.5, 0.9, 0.9) for k in range(8)]
    page = page_of(fill(tmp_path, summary=make_summary(budgets=budgets)))
    tones = [attrs["style"] for tag, attrs in page.elements if tag == "li" and "style" in attrs]
    assert tones == [f"--tone:var(--c{k % 6})" for k in range(8)]
    assert all(f"--c{k}:" in "".join(page.styles) for k in range(6))


# Hostile names --------------------------------------------------------------------------------------------------------


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    widths = {HOSTILE: 16, "features.1": 32, "head": 10}
    summary = make_summary(
        **dict.fromkeys(("model", "data", "task", "metric", "command"), HOSTILE),
        budgets=[make_budget(HOSTILE, 0.5, 0.961, 0.952, widths=widths)],
        notes=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
    )
    graph = make_graph(name=HOSTILE).freeze({HOSTILE: HOSTILE})
    summary["budgets"][0]["widths"][HOSTILE] = 32
    full = {HOSTILE: 32, "features.1": 64, "head": 10}
    fill(tmp_path, summary=summary, steps=[make_step(1, group=HOSTILE, widths=full)], graph=graph)
    write(tmp_path / "run.json", "Run", config={HOSTILE: HOSTILE})
    page = page_of(tmp_path)
    fill(tmp_path, summary=make_summary(model="zoo:net?width=1"))
    plain = page_of(tmp_path)

    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert len(page.scripts) == 2
    assert all(not key.startswith("on") for _, attrs in page.elements for key in attrs)
    assert page.text.count(HOSTILE) >= 10
    assert page.drawn()["groups"][0]["name"] == HOSTILE
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write", SCRIPT)  # a text stays a text


def test_names_that_are_not_utf8_are_written_out(tmp_path: Path) -> None:
    fill(tmp_path, summary=make_summary(data="folder:caf\udce9", notes=["caf\udce9.jpg can't be read."]))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "folder:caf\\udce9" in text
    assert "caf\\udce9.jpg can" in text


def test_json_in_a_script_can_not_close_it() -> None:
    text = script_json({"a": "</script><!--&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["summary.json", "search.jsonl", "graph.json"])
def test_a_missing_file(run: Path, name: str) -> None:
    (run / name).unlink()
    check_error(
        run,
        f"`{run / name}`: no such file; expected the {name} that a run leaves there. "
        "Give the folder of a finished run, or run again into it.",
    )


@pytest.mark.parametrize("name", ["summary.json", "graph.json"])
def test_a_file_cut_short(run: Path, name: str) -> None:
    (run / name).write_text((run / name).read_text()[:50])
    error = check_error(run, None)
    assert error.startswith(f"`{run / name}`: the file is not JSON (")
    assert error.endswith("expected a JSON object. Give the folder of a finished run, or run again into it.")


def test_a_search_line_cut_short(run: Path) -> None:
    file = run / "search.jsonl"
    file.write_text(file.read_text()[:-20])
    assert check_error(run, None).startswith(f"`{file}`: line 2 is not JSON (")


def test_a_file_that_is_no_text(run: Path) -> None:
    (run / "summary.json").write_bytes(b"\xff\xfe\x00")
    assert "expected a UTF-8 text file" in check_error(run, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"_type": "Widths"}, "the file is \"{'_type': 'Widths'"),
        ({"_version": 3}, 'expected a JSON object with "_type": "Summary" and "_version": 1 or 2'),
        ({"model": 3}, "model is '3' (int); expected a text."),
        ({"seed": True}, "seed is 'True' (bool); expected a whole number."),
        ({"seconds": None}, "seconds is missing; expected a JSON object."),
        ({"budgets": {}}, "budgets is '{}' (dict); expected a list."),
        ({"input": [["3"]]}, "input[0][0] is '3' (str); expected a whole number."),
        ({"base": 1}, "base is '1' (int); expected a JSON object."),
        ({"base": {"macs": 1}}, "base.params is missing; expected a number above 0."),
        ({"base": {"macs": 0}}, "base.macs is '0' (int); expected a number above 0."),
        ({"base": {"macs": float("nan")}}, "base.macs is 'nan' (float); expected a number above 0."),
        (
            {"budgets": [make_budget("macs<=50%", 0.5, 96.1, None)]},
            "budgets[0].accuracy.test is '96.1' (float); expected a fraction from 0 to 1, or null where not run.",
        ),
        ({"notes": [1]}, "notes[0] is '1' (int); expected a text."),
    ],
)
def test_a_summary_that_is_not_as_expected(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    error = check_error(fill(tmp_path, summary=make_summary(**changes)), None)
    assert error.startswith(f"`{tmp_path / 'summary.json'}`: ")
    assert expected in error
    assert error.endswith("Give the folder of a finished run, or run again into it.")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"_type": "Move"}, "line 2 is "),
        ({"costs": {}}, "line 2.costs.macs is missing; expected a number above 0."),
        ({"loss": None}, "line 2.loss is missing; expected a number."),
        ({"accuracy": None}, "line 2.accuracy is missing; expected a fraction from 0 to 1."),
        ({"before": 1.5}, "line 2.before is '1.5' (float); expected a whole number."),
    ],
)
def test_a_step_that_is_not_as_expected(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    fill(tmp_path, steps=[make_step(1), make_step(2, **changes)])
    assert f"`{tmp_path / 'search.jsonl'}`: {expected}" in check_error(tmp_path, None)


def test_a_graph_that_is_none(run: Path) -> None:
    (run / "graph.json").write_text('{"_type": "ChannelGraph", "_version": 2, "groups": [{"name": "a"}]}')
    assert check_error(run, None).startswith(f"`{run / 'graph.json'}`: not a channel graph (")
    (run / "graph.json").write_text("[]")
    assert 'expected a JSON object with "_type": "ChannelGraph"' in check_error(run, None)


def test_files_of_two_different_runs(run: Path) -> None:
    fill(run, graph=make_graph(name="stem"))
    error = check_error(run, None)
    assert error.startswith(f"`{run / 'summary.json'}`: budgets[0].widths do not fit the run's graph.json: ")
    assert "Widths lack the group 'stem'" in error
    assert "Expected both files from one run." in error


def check_error(folder: Path, message: str | None) -> str:
    """The text of the error that the folder gives, after which nothing may lie there that did not before."""
    before = sorted(folder.iterdir())
    with pytest.raises(RunFolderError) as caught:
        write_report(folder)
    assert sorted(folder.iterdir()) == before
    assert message is None or str(caught.value) == message
    return str(caught.value)


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_report_is_replaced_as_a_whole(run: Path) -> None:
    (run / "report.html").write_text("old")
    write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert sorted(file.name for file in run.iterdir()) == ["graph.json", "report.html", "search.jsonl", "summary.json"]


def test_a_write_that_fails_leaves_the_old_report(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (run / "report.html").write_text("old")
    monkeypatch.setattr(os, "replace", full)
    error = check_error(run, None)
    assert error.startswith(f"`{run / 'report.html'}`: can't be written (")
    assert "make the folder writable, then write the report again." in error
    assert (run / "report.html").read_text() == "old"


def test_an_interrupted_write_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report(run)
    assert sorted(file.name for file in run.iterdir()) == ["graph.json", "search.jsonl", "summary.json"]


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


# Numbers --------------------------------------------------------------------------------------------------------------


def test_numbers_are_said_one_way() -> None:
    counts = [say_count(value) for value in (7, 999, 1000, 4_900_000, 9_996_000, 999_400_000, 999_960_000, 4.1e9)]
    assert counts == ["7", "999", "1k", "4.9M", "10M", "999M", "1G", "4.1G"]
    assert [say_share(share) for share in (0.0123, 0.498, 0.5, 1.0, 12.0)] == ["1.23%", "49.8%", "50%", "100%", "1200%"]
    assert [say_score(value, Metric("accuracy")) for value in (0.0, 0.9605, 1.0, None)] == [
        "0.0%",
        "96.0%",
        "100.0%",
        NOT_RUN,
    ]
    assert [say_difference(value, "%") for value in (0.04, -0.04, -0.06, 2.0)] == [
        "0.0%",
        "0.0%",
        f"{MINUS}0.1%",
        "+2.0%",
    ]
    seconds = [say_seconds(value) for value in (0.0, 59.9, 59.96, 3599.7, 7500.0, None)]
    assert seconds == ["0.0 s", "59.9 s", "1 min 00 s", "1 h 00 min", "2 h 05 min", NOT_RUN]


@pytest.mark.parametrize(
    ("budget", "words"),
    [("macs<=50%", "MACs"), ("flops<=50%", "MACs"), ("latency<=5ms", "MACs"), ("memory<=2M", "elements of memory")],
)
def test_an_outcome_is_told_in_the_metric_of_its_budget(tmp_path: Path, budget: str, words: str) -> None:
    fill(tmp_path, summary=make_summary(budgets=[make_budget(budget, 0.5, 0.9, 0.9)]))
    summary = read_summary(tmp_path / "summary.json")
    assert f" {words}, 50% of your network's" in outcome(summary, summary.budgets[0])
