"""The report: what it says of a run, what it says where a stage was not run, and that nothing gets out of it or in."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from autoslim.errors import RunFolderError
from autoslim.graph import ChannelGraph, Group
from autoslim.report import write_report
from autoslim.report.page import render_page, script_json
from autoslim.report.read import read_graph, read_steps, read_summary
from autoslim.report.table import EMPTY, result_rows
from autoslim.report.text import NOT_RUN, outcome, say_accuracy, say_count, say_difference, say_seconds, say_share

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
        **{"loss": 0.2, "accuracy": 0.95 - step / 100, "widths": {}},
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
            if "td" in self._open or "th" in self._open:
                self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def results(self) -> list[list[str]]:
        """Rows of the main table below its two lines of headings."""
        return self.tables[0][2:]

    def figures(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def page_of(folder: Path) -> Page:
    """The page without plotly.js, which says nothing of the run and takes a second to parse."""
    summary, steps = read_summary(folder / "summary.json"), read_steps(folder / "search.jsonl")
    page = Page(render_page(summary, steps, read_graph(folder / "graph.json"), plotly_js="/* plotly */"))
    assert page._open == []
    return page


# Self-contained -------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_asks_for_nothing(run: Path) -> None:
    file = write_report(run)
    text = file.read_text(encoding="utf-8")
    page = Page(text)

    assert file == run / "report.html"
    assert 3_000_000 < file.stat().st_size < 6_000_000
    assert text.count("* plotly.js v") == 1
    assert not [(tag, attrs) for tag, attrs in page.elements if {"src", "href", "srcset", "action"} & set(attrs)]
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed", "base")]
    assert not re.search(r"@import|url\(|@font-face|https?:", "".join(page.styles))
    assert not re.search(r"https?://", page.scripts[0] + page.scripts[-1] + page.text)


def test_the_browser_is_told_to_fetch_nothing(run: Path) -> None:
    policies = [
        attrs["content"]
        for tag, attrs in page_of(run).elements
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none';")
    assert "http" not in policies[0]


def test_no_button_offers_to_upload_a_picture(run: Path) -> None:
    script = page_of(run).scripts[-1]
    assert 'displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: ""' in script


def test_plotly_is_not_loaded_before_a_report_is_written() -> None:
    code = "import sys, autoslim.report; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What it says ---------------------------------------------------------------------------------------------------------


def test_header_names_the_run_and_tells_every_outcome_in_a_sentence(run: Path) -> None:
    text = page_of(run).text
    assert f"zoo:mobilenet_small data hf:digits task classification seed 7 input 1{TIMES}3{TIMES}32{TIMES}32" in text
    assert (
        "macs<=50% 96.1% at 4.9M MACs, 50% of your network's; your own network 97.0%; uniform 95.2%. "
        "params<=25% 93.0% at 500k parameters, 25% of your network's; your own network 97.0%; uniform 94.1%."
    ) in text


def test_table_starts_with_the_users_own_network(run: Path) -> None:
    none = [EMPTY] * 5
    assert page_of(run).results() == [
        ["your network", "9.8M", "100%", "2M", "3M", "97.0%", *none],
        ["macs<=50%"],
        ["AutoSlim", "4.9M", "50%", "1M", "1.5M", "96.1%", f"{MINUS}0.9", "94.1%", "93.7%", EMPTY, EMPTY],
        [
            *("uniform, ratio 0.7", "4.85M", "49.5%", "1M", "1.5M", "95.2%", f"{MINUS}1.8", EMPTY, EMPTY),
            *(f"{MINUS}1.0% MACs", f"{MINUS}0.9"),
        ],
        ["params<=25%"],
        ["AutoSlim", "2.45M", "25%", "500k", "750k", "93.0%", f"{MINUS}4.0", "94.1%", "93.7%", EMPTY, EMPTY],
        [
            *("uniform, ratio 0.7", "2.43M", "24.8%", "500k", "750k", "94.1%", f"{MINUS}2.9", EMPTY, EMPTY),
            *("0.0% parameters", "+1.1"),
        ],
    ]


def test_a_table_row_has_as_many_cells_as_the_table_has_columns(run: Path) -> None:
    summary = read_summary(run / "summary.json")
    assert {len(row.cells) for row in result_rows(summary)} == {0, 10}
    assert len(page_of(run).tables[0][1]) == 10


def test_the_page_is_built_for_reading_aloud(run: Path) -> None:
    page = page_of(run)
    counts = {tag: sum(tag == other for other, _ in page.elements) for tag, _ in page.elements}
    assert counts["h1"] == 1
    assert counts["table"] == counts["caption"]
    assert counts["figure"] == counts["figcaption"] == 3
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")
    alts = [attrs["aria-label"] or "" for _, attrs in page.elements if attrs.get("role") == "img"]
    assert "3 groups of layers, 2 of them free. macs<=50% keeps 54.7% of all channels" in alts[0]
    assert "2 steps, from 8M MACs at 94.0% to 7M MACs at 93.0%" in alts[1]
    assert f"params<=25%: AutoSlim 93.0%, uniform 94.1%, a difference of {MINUS}1.1 points." in alts[2]


def test_frozen_groups_stages_versions_command_and_notes_are_told(run: Path) -> None:
    page = page_of(run)
    _, widths, frozen, seconds, versions = page.tables
    assert widths[1:] == [
        ["features.0", "32", "16", "16"],
        ["features.1", "64", "32", "32"],
        ["head", "10", "10", "10"],
    ]
    assert frozen[1:] == [["head", "10", "a model output", "head, head.bias"]]
    assert seconds[1:] == [
        *(["trace", "0.4 s"], ["train", "3 min 20 s"], ["search", "1 min 00 s"], ["retrain", NOT_RUN]),
        ["all", "4 min 20 s"],
    ]
    assert versions[1:] == [["torch", "2.8.0"]]
    assert "autoslim run --budget 'macs<=50%'" in page.text
    for note in ("two images were skipped", "the probe found nothing", "features.1: its mean is over fewer channels"):
        assert note in page.text
    assert page.text.count("one run with one seed") == 2


def test_another_metric_gives_the_pictures_their_names(tmp_path: Path) -> None:
    page = page_of(fill(tmp_path, summary=make_summary(metric="mIoU")))
    assert "MIoU against cost" not in page.text
    assert "mIoU against cost" in page.text


# Pictures -------------------------------------------------------------------------------------------------------------


def test_every_picture_is_a_valid_plotly_figure(run: Path) -> None:
    figures = page_of(run).figures()
    assert list(figures) == ["widths", "cost", "uniform"]
    for figure in figures.values():
        go.Figure(figure)  # raises on any property that plotly does not know
        assert figure["layout"]["paper_bgcolor"] == figure["layout"]["plot_bgcolor"] == "rgba(0,0,0,0)"


def test_widths_picture_has_an_outline_and_bars_for_free_groups_in_run_order(run: Path) -> None:
    figure = page_of(run).figures()["widths"]
    outline, *bars = figure["data"]
    assert outline["y"] == [32, 64, 10]
    assert figure["layout"]["xaxis"]["ticktext"] == ["features.0", "features.1", "head"]
    assert [bar["name"] for bar in bars] == ["macs&lt;=50%", "params&lt;=25%"]
    assert all(bar["y"] == [16, 32, None] for bar in bars)
    assert bars[0]["offset"] + bars[0]["width"] == pytest.approx(bars[1]["offset"])
    assert len({bar["marker"]["color"] for bar in bars}) == 2


def test_cost_picture_has_the_path_the_retrained_points_and_the_base(run: Path) -> None:
    path, first, second, base = page_of(run).figures()["cost"]["data"]
    assert path["name"] == "supernet, on search images"
    assert (path["x"], path["y"]) == ([8, 7], [94, 93])
    assert (first["x"], first["y"]) == ([4.9], [pytest.approx(96.1)])
    assert (second["x"], second["y"]) == ([2.45], [93])
    assert (base["name"], base["x"], base["y"]) == ("your network", [9.8], [97])


def test_uniform_picture_ties_both_networks_of_a_budget(run: Path) -> None:
    figure = page_of(run).figures()["uniform"]
    tie, slim, uniform, base = figure["data"]
    assert tie["x"] == pytest.approx([96.1, 95.2, None, 93, 94.1, None])
    assert slim["text"] == ["96.1%", "93.0%"]
    assert slim["textposition"] == ["middle right", "middle left"]
    assert uniform["textposition"] == ["middle left", "middle right"]
    assert base["x"] == [97, 97]
    assert [label["text"] for label in figure["layout"]["annotations"]] == ["macs&lt;=50%", "params&lt;=25%"]


def test_equal_accuracies_are_labelled_on_opposite_sides(tmp_path: Path) -> None:
    summary = make_summary(budgets=[make_budget("macs<=50%", 0.5, 0.9, 0.9)])
    _, slim, uniform, _ = page_of(fill(tmp_path, summary=summary)).figures()["uniform"]["data"]
    assert slim["textposition"] != uniform["textposition"]


# Not run --------------------------------------------------------------------------------------------------------------


def test_without_baseline_the_uniform_row_says_not_run(tmp_path: Path) -> None:
    budget = make_budget("macs<=50%", 0.5, 0.961, None) | {"uniform": None}
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget])))
    assert page.results()[-1] == ["uniform", *[NOT_RUN] * 10]
    assert "uniform not run." in page.text
    _, slim, uniform, _ = page.figures()["uniform"]["data"]
    assert (slim["x"], uniform["x"]) == ([pytest.approx(96.1)], [])


def test_without_retraining_the_supernets_accuracy_is_told_instead(tmp_path: Path) -> None:
    budget = make_budget("macs<=50%", 0.5, None, None)
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget])))
    assert page.results()[2][5:9] == [NOT_RUN, NOT_RUN, "94.1%", "93.7%"]
    assert page.results()[3][5:] == [NOT_RUN, NOT_RUN, EMPTY, EMPTY, f"{MINUS}1.0% MACs", NOT_RUN]
    assert "Retraining not run; 94.1% in the supernet on search images, at 4.9M MACs, 50%" in page.text
    assert "uniform" not in page.figures()
    assert "Not run: there is nothing to draw." in page.text


@pytest.mark.parametrize("accuracy", [None, {"test": None}, {}])
def test_without_the_users_accuracy_nothing_is_compared_with_it(
    tmp_path: Path, accuracy: dict[str, None] | None
) -> None:
    base = {**make_summary()["base"], "accuracy": accuracy}
    page = page_of(fill(tmp_path, summary=make_summary(base=base)))
    assert page.results()[0][5] == NOT_RUN
    assert page.results()[2][5:7] == ["96.1%", NOT_RUN]
    assert "your own network not run" in page.text
    assert not [trace for trace in page.figures()["cost"]["data"] if trace["name"] == "your network"]


def test_nothing_was_run_at_all(tmp_path: Path) -> None:
    summary = make_summary(budgets=[], base={**make_summary()["base"], "accuracy": None}, seconds={}, versions={})
    del summary["command"], summary["notes"]
    page = page_of(fill(tmp_path, summary=summary, steps=[]))
    assert list(page.figures()) == ["widths"]
    assert "No budget was asked for." in page.text
    assert "To make this run again" not in page.text
    assert "0.0%" not in page.text


def test_a_network_without_frozen_groups_and_notes(tmp_path: Path) -> None:
    graph = ChannelGraph((Group("a", 8, 1, (4, 8)),), (), (), (), (), (), inputs=((1, 3, 8, 8),))
    budget = make_budget("macs<=50%", 0.5, 0.9, 0.9, widths={"a": 4})
    page = page_of(fill(tmp_path, summary=make_summary(budgets=[budget], notes=None), graph=graph))
    assert "None: every group of layers could be narrowed." in page.text
    assert " Notes " not in page.text


def test_more_budgets_than_colours_and_long_names(tmp_path: Path) -> None:
    name = "backbone.stages.3.blocks.11.attention.projection"
    widths = {name: 16, "features.1": 32, "head": 10}
    budgets = [make_budget(f"macs<={90 - k}%", 0.5, 0.9, 0.9, widths=widths) for k in range(8)]
    figure = page_of(fill(tmp_path, summary=make_summary(budgets=budgets), graph=make_graph(name=name))).figures()[
        "widths"
    ]
    looks = {(bar["marker"]["color"], bar["marker"]["pattern"]["shape"]) for bar in figure["data"][1:]}
    assert len(looks) == 8
    assert figure["layout"]["xaxis"]["ticktext"][0] == "backbone.sta…on.projection"
    assert figure["data"][1]["customdata"][0].startswith(name)


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
    page = page_of(fill(tmp_path, summary=summary, steps=[make_step(1, group=HOSTILE)], graph=graph))
    plain = page_of(fill(tmp_path))

    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert len(page.scripts) == 3
    assert all(not key.startswith("on") for _, attrs in page.elements for key in attrs)
    assert page.text.count(HOSTILE) >= 10
    drawn = json.dumps(page.figures())
    assert "<img" not in drawn
    assert "<b>" not in drawn
    assert "&lt;/script&gt;" in drawn


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
        ({"_version": 2}, 'expected a JSON object with "_type": "Summary" and "_version": 1'),
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
    assert error.startswith(f"`{run / 'summary.json'}`: budgets[0].widths do not fit `{run / 'graph.json'}`: ")
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
    assert [say_accuracy(value) for value in (0.0, 0.9605, 1.0, None)] == ["0.0%", "96.0%", "100.0%", NOT_RUN]
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
