"""The report's tables as plain rows of text, and rows as HTML."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from autoslim.graph import ChannelGraph
from autoslim.report.picture import colour
from autoslim.report.read import BudgetResult, Network, Summary
from autoslim.report.text import (
    COST_WORDS,
    NOT_RUN,
    points,
    say_accuracy,
    say_count,
    say_difference,
    say_seconds,
    say_share,
)

EMPTY = "\N{EN DASH}"  # a column that does not apply to the row, unlike "not run"
_NUM_COLUMNS = 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the main table: its name and _NUM_COLUMNS cells; a heading of a budget has none."""

    name: str
    cells: tuple[str, ...] = ()
    kind: str = ""
    colour: str = ""


def result_rows(summary: Summary) -> list[Row]:
    """The user's own network first, then for each budget a heading, AutoSlim, and the uniform network."""
    base = summary.base
    own = (*_costs(base, base), say_accuracy(base.test), *[EMPTY] * (_NUM_COLUMNS - 5))
    rows = [Row(name="your network", cells=own, kind="own")]
    for index, result in enumerate(summary.budgets):
        rows.append(Row(name=result.budget, kind="group", colour=colour(index)))
        slim = (*_costs(result.slim, base), *_accuracies(result.slim, base), EMPTY, EMPTY)
        rows += [Row(name="AutoSlim", cells=slim), Row(name=_uniform_name(result), cells=_uniform(result, base))]
    return rows


def result_table(summary: Summary) -> str:
    """The main table."""
    metric = html.escape(summary.metric)
    columns = ("MACs", "share of yours", "params", "memory", "test images", "against yours")
    more = ("search images", "test images", "cost", metric)
    heads = "".join(f'<th scope="col" class="wrap">{column}</th>' for column in (*columns, *more))
    body = "\n".join(_row(row) for row in result_rows(summary))
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Table of results">
<table id="results"><caption>Cost and {metric} at every budget.</caption>
<thead><tr><th scope="col" rowspan="2">network</th><th scope="colgroup" colspan="4">cost</th>
<th scope="colgroup" colspan="2">{metric}</th><th scope="colgroup" colspan="2">{metric} in the supernet</th>
<th scope="colgroup" colspan="2">uniform against AutoSlim</th></tr>
<tr>{heads}</tr></thead>
<tbody>
{body}
</tbody></table></div>
<p class="soft">Memory is parameters + activations, in elements. Differences of {metric} are percentage points. "Uniform
against AutoSlim" is the uniform network less AutoSlim: {metric}, and cost in the first metric the budget limits.</p>"""


def widths_table(graph: ChannelGraph, budgets: Sequence[BudgetResult]) -> str:
    """Channels of every group at full width and at each budget: the numbers behind picture A."""
    head = ["group", "full width", *(result.budget for result in budgets)]
    rows = [[group.name, group.size, *(result.widths[group.name] for result in budgets)] for group in graph.groups]
    return simple_table("Channels of each group of layers.", head, rows)


def frozen_table(graph: ChannelGraph) -> str:
    """Groups that could not be narrowed, with the reason; "" if there is none."""
    rows = [[g.name, g.size, g.frozen, ", ".join(g.layers)] for g in graph.groups if g.frozen is not None]
    head = ["group", "channels", "why it is frozen", "layers"]
    return simple_table("Groups of layers that keep all their channels.", head, rows, words=(2, 3)) if rows else ""


def seconds_table(summary: Summary) -> str:
    """How long every stage took."""
    rows = [[stage, say_seconds(seconds)] for stage, seconds in summary.seconds.items()]
    total = sum(seconds or 0.0 for seconds in summary.seconds.values())
    return simple_table("Time per stage.", ["stage", "time"], [*rows, ["all", say_seconds(total)]])


def versions_table(summary: Summary) -> str:
    """Versions of the software that made the run."""
    rows = [[name, version] for name, version in summary.versions.items()]
    return simple_table("Versions.", ["software", "version"], rows)


def simple_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], *, words: Sequence[int] = ()
) -> str:
    """A table whose first column names its rows; the columns in `words` hold sentences. All text is escaped."""

    def kind(index: int) -> str:
        return ' class="words"' if index in words else ""

    heads = "".join(f'<th scope="col"{kind(index)}>{_text(name)}</th>' for index, name in enumerate(head))
    body = "\n".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        + "".join(f"<td{kind(i)}>{_text(cell)}</td>" for i, cell in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _uniform_name(result: BudgetResult) -> str:
    return "uniform" if result.ratio is None else f"uniform, ratio {result.ratio:.3g}"


def _uniform(result: BudgetResult, base: Network) -> tuple[str, ...]:
    uniform, slim = result.uniform, result.slim
    if uniform is None:
        return (NOT_RUN,) * _NUM_COLUMNS
    gap = 100 * (uniform.costs[result.metric] / slim.costs[result.metric] - 1)
    cells = (say_difference(gap, f"% {COST_WORDS[result.metric].split()[-1]}"), _points(uniform.test, slim.test))
    return (*_costs(uniform, base), *_accuracies(uniform, base)[:2], EMPTY, EMPTY, *cells)


def _costs(network: Network, base: Network) -> tuple[str, ...]:
    macs, params, memory = (say_count(network.costs[metric]) for metric in ("macs", "params", "memory"))
    return macs, say_share(network.costs["macs"] / base.costs["macs"]), params, memory


def _accuracies(network: Network, base: Network) -> tuple[str, ...]:
    found = say_accuracy(network.test), _points(network.test, base.test)
    return (*found, say_accuracy(network.search), say_accuracy(network.supernet))


def _points(left: float | None, right: float | None) -> str:
    return say_difference(points(left, right), "")


def _row(row: Row) -> str:
    if not row.cells:
        dot = f'<span class="dot" style="--budget:{row.colour}"></span>'
        heading = f"<span>{dot}{_text(row.name)}</span>"
        return f'<tr class="group"><th scope="rowgroup" colspan="{_NUM_COLUMNS + 1}">{heading}</th></tr>'
    cells = "".join(
        f'<td class="none">{cell}</td>' if cell in (NOT_RUN, EMPTY) else f"<td>{_text(cell)}</td>" for cell in row.cells
    )
    return f'<tr class="{row.kind}"><th scope="row">{_text(row.name)}</th>{cells}</tr>'


def _text(value: object) -> str:
    return html.escape(str(value))
