"""The report in a real browser: it renders without complaint, its slider moves the bars, its tables sort, it fits.

Chromium is driven over its DevTools pipe. Where none is installed these tests are skipped.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autoslim import make_cost, trace_channels
from autoslim.models import build_model
from autoslim.report import write_comparison, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on the path"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
# DevTools reads from handle 3 and writes to handle 4
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
PATIENCE = 300  # seconds; the machine may be busy


class Browser:
    """One headless Chromium with one page; `events` are what DevTools told since the page was opened."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        high = [fcntl.fcntl(handle, fcntl.F_DUPFD, 20) for handle in (theirs_in, theirs_out)]
        command = [sys.executable, "-c", LAUNCH, *map(str, high), program, *FLAGS, f"--user-data-dir={profile}"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*command, "about:blank"], pass_fds=high, **quiet)
        for handle in (theirs_in, theirs_out, *high):
            os.close(handle)
        self._buffer, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        (page,) = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": self._count, "method": method, "params": params, **session}).encode() + b"\0"
        while message:
            message = message[os.write(self._to, message) :]
        while (answer := self._read()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0], "Chromium does not answer"
            self._buffer += os.read(self._from, 1 << 20)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, file: Path, *, width: int = 1200, dark: bool = False) -> None:
        size: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(self._read())
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            code = {"Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def told(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def close(self) -> None:
        os.close(self._to)  # the end of its pipe is the end of Chromium
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    browser = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def make_run(folder: Path) -> Path:
    """A run whose costs are those of a real network; its accuracies are made up, and fall with the MACs."""
    graph = trace_channels(build_model("zoo:resnet_digits"), torch.zeros(1, 1, 8, 8))
    costs = {name: make_cost(name, graph) for name in ("macs", "params", "memory", "peak_memory")}
    widths, steps, lines = graph.max_widths(), [], []
    base = {name: cost(widths) for name, cost in costs.items()}
    for number, group in enumerate((group for group in graph.groups if group.frozen is None), start=1):
        narrower = widths.replace({group.name: group.candidates[0]})
        prices = {name: cost(narrower) for name, cost in costs.items()}
        steps.append(
            {
                **{"_type": "Step", "_version": 2, "step": number, "group": group.name, "before": group.size},
                **{"after": group.candidates[0], "loss": 0.1 * number, "costs": prices, "widths": dict(narrower)},
                "accuracy": 0.7 + 0.25 * prices["macs"] / base["macs"],
            }
        )
        widths = narrower
        lines.append({"_type": "Score", "_version": 1, "accuracy": 0.6 + 0.01 * number, "widths": dict(widths)})
    budgets = [
        {
            **{"budget": f"macs<={share}%", "folder": f"models/macs-{share}", "widths": steps[at]["widths"]},
            **steps[at]["costs"],
            "accuracy": {"search": steps[at]["accuracy"], "supernet": 0.8, "test": 0.9 - 0.02 * at},
            "uniform": {"ratio": 0.5, **steps[at]["costs"], "accuracy": {"test": 0.88 - 0.02 * at}},
        }
        for share, at in ((50, 2), (25, 4))
    ]
    common = {"_version": 1, "model": "zoo:a_network_with_a_name_that_is_long?width_mult=0.5", "data": "hf:" + "d" * 60}
    summary = {
        **common,
        **{"_type": "Summary", "task": "classification", "metric": "accuracy", "seed": 0, "input": [[1, 1, 8, 8]]},
        "base": {**base, "accuracy": {"test": 0.97}},
        "budgets": budgets,
        "seconds": {"search": 3.0, "train": 20.0},
        "versions": {"torch": "2.8.0"},
        "command": "autoslim run --out " + "x" * 80,
    }
    samples = [
        {
            **{"_type": "TrustSample", "_version": 1, "stratum": k % 4, "epochs": 1, "macs": 1e5 * (1 + k)},
            **{"alone_accuracy": 0.5 + 0.01 * k, "supernet_accuracy": 0.6 + 0.01 * k},
        }
        for k in range(8)
    ]
    files = {"search.jsonl": steps, "scores.jsonl": lines, "trust.jsonl": samples}
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "graph.json").write_text(json.dumps(graph.to_json()))
    beside = folder / "models" / "macs-50" / "uniform"
    beside.mkdir(parents=True)
    (beside / "widths.json").write_text(json.dumps(graph.uniform_widths(0.5).to_json()))
    training = {"_type": "Training", "_version": 1, "supernet_loss": [8.0, 2.0, 0.5]}
    (folder / "training.json").write_text(json.dumps(training))
    return folder


BARS = "[...document.querySelectorAll('figure.slim rect.kept')].map(bar => Number(bar.getAttribute('height')))"
DIALS = "[...document.querySelectorAll('.dials dd')].map(dial => dial.firstChild.textContent)"
OVER = """[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, svg, .unseen')
    && one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_renders_without_complaint_request_or_overflow(browser: Browser, run: Path, width: int, dark: bool) -> None:
    file = write_report(run)
    browser.open(file, width=width, dark=dark)
    assert browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = [event["request"]["url"] for event in browser.told("Network.requestWillBeSent")]
    assert asked == [file.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OVER) == []
    assert browser.run("[...document.querySelectorAll('figure')].map(f => f.querySelectorAll('svg *').length > 5)") == (
        [True] * 4
    )
    ink = browser.run("getComputedStyle(document.body).color")
    page = browser.run("getComputedStyle(document.body).backgroundColor")
    bright = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, page)]
    assert (bright[0] > bright[1]) is dark


def test_an_error_in_a_page_would_be_told(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<!doctype html><img src='nothing.png'><script>nothing()</script><div style='width:2000px'>wide"
    )
    browser.open(tmp_path / "bad.html", width=360)
    assert browser.told("Runtime.exceptionThrown")
    assert len(browser.told("Network.requestWillBeSent")) == 2
    assert browser.run("document.documentElement.scrollWidth") > 360
    assert browser.run(OVER) != []


def test_the_slider_moves_bars_and_numbers_by_keyboard(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    browser.run("document.querySelector('input[type=range]').focus()")
    browser.press("Home")
    widest, dials = browser.run(BARS), browser.run(DIALS)
    assert dials[:2] == ["not known", "764k"]
    browser.press("ArrowRight")
    narrower = browser.run(BARS)
    assert [a > b for a, b in zip(widest, narrower, strict=True)] == [True] + [False] * (len(widest) - 1)
    assert browser.run(DIALS)[1] != dials[1]
    assert "step 1 of 6: stem from 16" in browser.run(
        "document.querySelector('input[type=range]').getAttribute('aria-valuetext').toLowerCase()"
    )
    browser.run("new Promise(done => setTimeout(done, 400))")
    assert browser.run("document.getElementById('live').textContent").startswith("Step 1 of 6: stem from 16 to")
    browser.press("End")
    assert sum(browser.run(BARS)) < sum(narrower)


def test_a_budget_is_a_press_away_and_the_chart_follows(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    ring = "document.querySelector('figure.tradeoff .here').getAttribute('cx')"
    states = "[...document.querySelectorAll('.jumps button')].map(b => b.getAttribute('aria-pressed'))"
    assert browser.run(states) == ["true", "false"]
    before = browser.run(ring)
    browser.run("document.querySelectorAll('.jumps button')[1].click()")
    assert browser.run(states) == ["false", "true"]
    told = browser.run("document.querySelector('.told').textContent")
    assert "Found for macs<=25%; 82.0% on test images after retraining." in told
    assert float(browser.run(ring)) < float(before)


def test_bars_can_be_shares_and_have_another_network_beside_them(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    browser.run("document.querySelector('input[type=range]').focus()")
    browser.press("Home")
    browser.run("document.querySelectorAll('.tools .switch button')[1].click()")
    assert len(set(browser.run(BARS)[:-1])) == 1  # all are whole; the last is frozen
    lines = "[...document.querySelectorAll('.beside')].map(one => one.getAttribute('visibility'))"
    assert set(browser.run(lines)) == {"hidden"}
    choice = "document.querySelector('figure.slim select')"
    browser.run(f"{choice}.value = 0; {choice}.dispatchEvent(new Event('change'))")
    assert set(browser.run(lines)) == {"visible"}


def test_the_pointer_is_told_values(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    for mark, tip, told in (
        ("document.querySelector('figure.slim rect.whole')", "figure.slim .tip", "stem: "),
        (
            "[...document.querySelectorAll('figure.tradeoff .mark.full')].pop()",
            "figure.tradeoff .tip",
            "your network: ",
        ),
    ):
        browser.run(f"{mark}.scrollIntoView({{block: 'center'}})")
        x, y = browser.run(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({mark}.getBoundingClientRect())")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert browser.run(f"document.querySelector('{tip}').hidden") is False
        assert browser.run(f"document.querySelector('{tip}').textContent").startswith(told)


def test_it_plays_the_whole_path(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    at = "Number(document.querySelector('input[type=range]').value)"
    assert browser.run(at) == 3
    browser.run("document.querySelector('.play').click()")
    browser.run("new Promise(done => setTimeout(done, 3000))")
    assert browser.run(at) == 6
    assert browser.run("document.querySelector('.play').textContent") == "Play"


def test_the_cost_axis_can_be_chosen(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    title = "document.querySelectorAll('figure.tradeoff .title')[1].textContent"
    assert browser.run(title) == "MACs"
    choices = "[...document.querySelectorAll('figure.tradeoff .switch button')]"
    assert browser.run(f"{choices}.map(b => b.textContent)") == ["MACs", "parameters", "memory", "peak memory"]
    browser.run(f"{choices}[1].click()")
    assert browser.run(title) == "parameters"


def test_points_tell_their_values_to_the_keyboard(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    browser.run("document.querySelector('figure.tradeoff .plot').focus()")
    browser.press("End")
    tip = browser.run("document.querySelector('figure.tradeoff .tip').textContent")
    assert tip == "your network: 97.0% at 764k MACs"
    browser.press("ArrowLeft")
    assert browser.run("document.querySelector('figure.tradeoff .tip').textContent") != tip


def test_tables_sort_by_click_and_by_keyboard(browser: Browser, run: Path) -> None:
    browser.open(write_report(run))
    column = "[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[1].textContent)"
    button = "document.querySelectorAll('#results .sort')[1]"
    assert browser.run(column) == ["97.0%", "86.0%", "84.0%", "82.0%", "80.0%"]
    browser.run(f"{button}.click()")
    assert browser.run(column) == ["80.0%", "82.0%", "84.0%", "86.0%", "97.0%"]
    assert browser.run(f"{button}.closest('th').getAttribute('aria-sort')") == "ascending"
    browser.run(f"{button}.focus()")
    browser.press("Enter")
    assert browser.run(column) == ["97.0%", "86.0%", "84.0%", "82.0%", "80.0%"]
    assert browser.run(f"{button}.closest('th').getAttribute('aria-sort')") == "descending"
    against = "[...document.querySelectorAll('#results tbody tr')].map(row => row.cells[2].textContent)"
    browser.run("document.querySelectorAll('#results .sort')[2].click()")
    assert browser.run(against)[-1] == "\N{EN DASH}"  # what has no number stays last
    browser.run("document.querySelectorAll('#results .sort')[2].click()")
    assert browser.run(against)[-1] == "\N{EN DASH}"


def test_several_runs_have_a_slider_each(browser: Browser, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    file = write_comparison([run, make_run(tmp_path / "other")], tmp_path / "both.html")
    for width in (360, 1200):
        browser.open(file, width=width)
        assert browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
        assert browser.run(OVER) == []
    heights = "[...figure.querySelectorAll('rect.kept')].map(bar => bar.getAttribute('height')).join()"
    bars = f"[...document.querySelectorAll('figure.slim')].map(figure => {heights})"
    before = browser.run(bars)
    browser.run("document.querySelectorAll('input[type=range]')[1].focus()")
    browser.press("End")
    after = browser.run(bars)
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    shut = "document.querySelectorAll('details.run figure svg *').length"
    browser.run("document.querySelectorAll('details.run').forEach(one => { one.open = true; })")
    browser.run("new Promise(done => setTimeout(done, 300))")
    assert browser.run(shut) > 20  # what lay folded is drawn once it is seen
