"""The report's tables as HTML; the page's script lets them be sorted by any column."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoslim.graph import ChannelGraph
from autoslim.report.extras import Latency
from autoslim.report.read import BudgetResult, Network, Summary
from autoslim.report.run import Run
from autoslim.report.style import colour, escape
from autoslim.report.text import (
    METRIC_WORDS,
    NOT_RUN,
    points,
    say_cost,
    say_difference,
    say_gap,
    say_score,
    say_seconds,
    say_share,
)
from autoslim.tasks import Metric

EMPTY = "\N{EN DASH}"  # a column that does not apply to the row, unlike "not run"


@dataclass(frozen=True)
class Cell:
    """A text and the number to sort it by; `colour` puts a dot before it, `aside` stands softly after it."""

    text: str
    value: float | None = None
    colour: str = ""
    aside: str = ""


def network_table(runs: Sequence[Run]) -> str:
    """The main table: of each run the user's own network first, then for each budget AutoSlim and uniform."""
    metrics = [name for name in METRIC_WORDS if any(name in run.metrics for run in runs)]
    many = len(runs) > 1
    metric = runs[0].summary.metric if len({run.summary.metric for run in runs}) == 1 else "score"
    head = ["network", *(["run"] if many else []), f"test {metric}", "against yours"]
    head += [*(METRIC_WORDS[name] for name in metrics), "MACs, share of yours"]
    head += [f"search {metric} in the supernet", f"test {metric} in the supernet"]
    head += ["cost against AutoSlim", f"{metric} against AutoSlim"]
    rows: list[list[object]] = []
    for index, run in enumerate(runs):
        for row in result_rows(run.summary, metrics, colour(index) if many else None):
            rows.append([row[0], *([run.name] if many else []), *row[1:]])
    caption = f"Cost and {metric} at every budget."
    if "latency" in metrics:
        caption += " Latencies are predicted, and under a limit of latency measured: AutoSlim's and uniform's."
    return simple_table(caption, head, rows, words=(1,) if many else (), name="results")


def result_rows(summary: Summary, metrics: Sequence[str], dot: str | None = None) -> list[list[Cell]]:
    """The rows of one run; `dot` is the colour of the run where several share a table."""
    base, scale = summary.base, summary.scale
    empty = Cell(EMPTY)
    own = [
        Cell("your network", colour=dot or "var(--own)"),
        _score(base.test, scale),
        empty,
        *_costs(base, base, metrics),
    ]
    rows = [[*own, *[empty] * 4]]
    for index, result in enumerate(summary.budgets):
        slim, uniform, tone = result.slim, result.uniform, dot or colour(index)
        rows.append(
            [
                *(Cell("AutoSlim", colour=tone, aside=result.budget), _score(slim.test, scale)),
                *(_points(slim.test, base.test, scale), *_costs(slim, base, metrics)),
                *(_score(slim.search, scale), _score(slim.supernet, scale), empty, empty),
            ]
        )
        ratio = "" if result.ratio is None else f", ratio {result.ratio:.3g}"
        note = f"; {result.note}" if result.note else ""
        name = Cell("uniform", colour=tone, aside=f"{result.budget}{ratio}{note}")
        if uniform is None:
            rows.append([name, *[Cell(NOT_RUN)] * (len(own) + 3)])
            continue
        gap = 100 * (uniform.costs[result.metric] / slim.costs[result.metric] - 1)
        rows.append(
            [
                *(name, _score(uniform.test, scale), _points(uniform.test, base.test, scale)),
                *_costs(uniform, base, metrics),
                *(empty, empty, Cell(say_difference(gap, f"% {METRIC_WORDS[result.metric]}"), gap)),
                _points(uniform.test, slim.test, scale),
            ]
        )
    return rows


def widths_table(graph: ChannelGraph, budgets: Sequence[BudgetResult]) -> str:
    """Channels of every group at full width and at each budget: the numbers behind the bars."""
    head = ["group", "full width", *(result.budget for result in budgets)]
    rows = [[group.name, group.size, *(result.widths[group.name] for result in budgets)] for group in graph.groups]
    return simple_table("Channels of each group of layers.", head, rows)


def path_table(run: Run) -> str:
    """The steps of the search."""
    head = ["step", "group", "channels before", "after", f"search {run.summary.metric}", "loss"]
    head += [METRIC_WORDS[metric] for metric in run.metrics]
    rows = [
        [
            *(step.step, Cell(step.group), step.before, step.after, _score(step.accuracy, run.summary.scale)),
            Cell("not finite") if step.loss is None else Cell(f"{step.loss:.4g}", step.loss),
            *(_cost(metric, step.costs.get(metric)) for metric in run.metrics),
        ]
        for step in run.steps
    ]
    return simple_table("Steps that the search accepted, each with the network after it.", head, rows, words=(1,))


def searches_table(run: Run) -> str:
    """What further searches of the same supernet found; their settings lie in the files that the caption names."""
    head = ["budget", "search", f"search {run.summary.metric}", *(METRIC_WORDS[metric] for metric in run.metrics)]
    rows = [
        [
            *(one.budget, one.search, _score(one.accuracy, run.summary.scale)),
            *(_cost(name, one.costs.get(name)) for name in run.metrics),
        ]
        for one in run.searches
    ]
    return simple_table(
        "Further searches of the same supernet; their settings: searches/NAME/search.json.", head, rows, words=(1,)
    )


def latency_table(run: Run, latency: Latency) -> str:
    """Networks that the search found and that were measured: the prediction before, and the measurement."""
    rows = [
        [
            run.name_of(widths),
            *(_cost("latency", guess), _cost("latency", ms)),
            Cell(say_difference(100 * (guess / ms - 1), "%"), guess / ms),
        ]
        for widths, guess, ms in latency.found
    ]
    return simple_table("Found networks, measured.", ["network", "predicted", "measured", "predicted too much"], rows)


def frozen_table(graph: ChannelGraph) -> str:
    """Groups that could not be narrowed, with the reason; "" if there is none."""
    rows = [[g.name, g.size, g.frozen, ", ".join(g.layers)] for g in graph.groups if g.frozen is not None]
    head = ["group", "channels", "why it is frozen", "layers"]
    return simple_table("Groups of layers that keep all their channels.", head, rows, words=(2, 3)) if rows else ""


def seconds_table(summary: Summary) -> str:
    """How long every stage took."""
    rows = [[stage, Cell(say_seconds(seconds), seconds)] for stage, seconds in summary.seconds.items()]
    total = sum(seconds or 0.0 for seconds in summary.seconds.values())
    return simple_table("Time per stage.", ["stage", "time"], [*rows, ["all", Cell(say_seconds(total), total)]])


def pairs_table(caption: str, head: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    """Names and their values: versions, settings."""
    return simple_table(caption, head, pairs, words=(1,))


def simple_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], *, words: Sequence[int] = (), name: str = ""
) -> str:
    """A table whose first column names its rows; the columns in `words` hold sentences. All text is escaped."""

    def kind(index: int) -> str:
        return ' class="words"' if index in words else ""

    heads = "".join(f'<th scope="col"{kind(index)}>{escape(name)}</th>' for index, name in enumerate(head))
    body = "\n".join(
        f'<tr><th scope="row"{_sorted(row[0])}>{_show(row[0])}</th>'
        + "".join(f"<td{kind(i)}{_sorted(cell)}>{_show(cell)}</td>" for i, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    mark, tall = f' id="{name}"' if name else "", " tall" if len(rows) > 20 else ""
    return (
        f'<div class="scroll{tall}" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table{mark} class="sortable"><caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _costs(network: Network, base: Network, metrics: Sequence[str]) -> list[Cell]:
    share = network.costs["macs"] / base.costs["macs"]
    return [*(_cost(name, network.costs.get(name)) for name in metrics), Cell(say_share(share), share)]


def _cost(metric: str, value: float | None) -> Cell:
    return Cell(EMPTY) if value is None else Cell(say_cost(metric, value), value)


def _score(value: float | None, scale: Metric) -> Cell:
    return Cell(say_score(value, scale), value)


def _points(left: float | None, right: float | None, scale: Metric) -> Cell:
    return Cell(say_gap(left, right, scale), points(left, right, scale))


def _sorted(cell: object) -> str:
    value = cell.value if isinstance(cell, Cell) else cell if isinstance(cell, int | float) else None
    return "" if value is None else f' data-v="{value:.12g}"'


def _show(cell: object) -> str:
    if not isinstance(cell, Cell):
        return escape(cell)
    dot = f'<span class="dot" style="--tone:{cell.colour}"></span>' if cell.colour else ""
    aside = f' <span class="aside">{escape(cell.aside)}</span>' if cell.aside else ""
    return (
        f"{dot}{escape(cell.text)}{aside}"
        if cell.text not in (NOT_RUN, EMPTY)
        else f'<span class="none">{cell.text}</span>'
    )
