"""A still of the report for papers: width bars of every budget, and accuracy against cost. Drawn by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoslim._extras import install_extra
from autoslim.errors import ConfigError, RunFolderError
from autoslim.report.run import Run
from autoslim.report.text import METRIC_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0b6fb8", "#c47600", "#00875f", "#b4508d", "#3a92c7", "#c24a00")  # page.css on white
_GREY = "#7b8591"
_SCALES = {"macs": ("MACs, million", 1e6), "params": ("parameters, million", 1e6), "memory": ("memory, million", 1e6),
           "peak_memory": ("peak memory, MB", 1e6), "latency": ("latency, ms", 1.0)}  # fmt: skip


def write_png(runs: Sequence[Run], file: Path, *, metric: str = "macs") -> Path:
    """Writes a picture of one or several runs: a row of width bars for each, then accuracy against one cost.

    Args:
        runs: From `read_run`.
        file: The picture; its ending (.png, .pdf, .svg) says the format.
        metric: The cost on the horizontal axis.

    Raises:
        ConfigError: A cost that the runs don't tell, an ending that is no picture's, or runs of different tasks.
        RunFolderError: matplotlib is not installed, or the file can't be written.
    """
    if len({run.summary.scale for run in runs}) > 1:
        raise ConfigError(
            f"autoslim report: --png of runs with {', '.join(sorted({run.summary.metric for run in runs}))}; expected "
            "one metric of the task, which the vertical axis has. Draw them one by one."
        )
    known = [name for name in METRIC_WORDS if all(name in run.metrics for run in runs)]
    if metric not in known:
        raise ConfigError(
            f"autoslim report: --axis is {metric!r}; expected a cost that every run tells: {', '.join(known)}. "
            "Choose one of them."
        )
    try:
        from matplotlib.figure import Figure  # half a second, and an extra
    except ImportError as error:
        raise RunFolderError(
            f"`{file}`: a picture needs matplotlib ({error}); expected it to be installed. "
            f"Install it with {install_extra('png')}. report.html needs nothing."
        ) from error
    heights = [1.0] * len(runs) + [1.35]
    figure = Figure(figsize=(7.2, 2.3 * sum(heights) + 0.4), dpi=200, layout="constrained")
    *bars, last = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, run in zip(bars, runs, strict=True):
        _draw_widths(axes, run)
    _draw_tradeoff(last, runs, metric)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"`{file}`: can't be written ({error}); expected a place to write and an ending like .png, .pdf or .svg. "
            "Give another --png."
        ) from error
    return Path(file)


def _draw_widths(axes: "Axes", run: Run) -> None:
    groups, budgets = run.graph.groups, run.summary.budgets
    places = range(len(groups))
    frozen = ["#d5d9dd" if group.frozen is not None else "none" for group in groups]
    axes.bar(places, [group.size for group in groups], 0.9, color=frozen, edgecolor=_GREY, linewidth=0.5)
    width = 0.8 / max(len(budgets), 1)
    for index, result in enumerate(budgets):
        free = [at for at in places if groups[at].frozen is None]
        kept = [result.widths[groups[at].name] for at in free]
        where = [at - 0.4 + (index + 0.5) * width for at in free]
        axes.bar(where, kept, width, color=COLOURS[index % len(COLOURS)], label=_plain(result.budget))
    small = 7 if len(groups) <= 40 else 4
    axes.set_xticks(list(places), [_plain(group.name) for group in groups], rotation=90, fontsize=small)
    axes.set_xlim(-0.7, len(groups) - 0.3)
    axes.set_ylabel("channels")
    axes.set_title(_plain(run.name), fontsize=9, loc="left")
    if budgets:
        axes.legend(fontsize=7, frameon=False, ncols=3)
    _plain_frame(axes)


def _draw_tradeoff(axes: "Axes", runs: Sequence[Run], metric: str) -> None:
    title, unit = _SCALES[metric]
    many, scale = len(runs) > 1, runs[0].summary.scale
    percent = 100 if scale.share else 1
    for number, run in enumerate(runs):
        head = f"{_plain(run.name)}: " if many else ""
        path = [(step.costs[metric] / unit, percent * step.accuracy) for step in run.steps if metric in step.costs]
        tone = COLOURS[number % len(COLOURS)] if many else _GREY
        if path:
            style: dict[str, Any] = {"linewidth": 0.8 if run.is_path else 0, "markersize": 2, "marker": "o"}
            axes.plot(*zip(*path, strict=True), color=tone, label=f"{head}search, supernet", **style)
        for index, result in enumerate(run.summary.budgets):
            shade = tone if many else COLOURS[index % len(COLOURS)]
            for network, mark, face in ((result.slim, "o", shade), (result.uniform, "D", "none")):
                if network is not None and network.test is not None and metric in network.costs:
                    name = "AutoSlim" if mark == "o" else "uniform"
                    label = None if index and many else f"{head}{name}" + ("" if many else f", {_plain(result.budget)}")
                    x, y = network.costs[metric] / unit, percent * network.test
                    axes.plot(x, y, mark, color=shade, markerfacecolor=face, markersize=6, linestyle="", label=label)
        base = run.summary.base
        if base.test is not None:
            x, y, shade = base.costs[metric] / unit, percent * base.test, tone if many else "#3d4650"
            axes.plot(x, y, "*", color=shade, markersize=10, linestyle="", label=f"{head}your network")
    axes.set_xlabel(title)
    axes.set_ylabel(_plain(runs[0].summary.metric) + (", %" if scale.share else ""))
    axes.legend(fontsize=6.5, frameon=False, loc="best")
    axes.grid(color="#e9ebee", linewidth=0.6)
    _plain_frame(axes)


def _plain_frame(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _plain(text: str) -> str:
    """A name that matplotlib takes as it is: a dollar would start a formula."""
    return text.replace("$", r"\$")
