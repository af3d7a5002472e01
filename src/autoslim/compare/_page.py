"""The comparison as one page: its table, two kinds of pictures, what each search costs, and all settings."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.baselines import BASELINES
from autoslim.compare._result import KEPT
from autoslim.report.page import script_json
from autoslim.report.picture import COLOURS, layout_of, safe
from autoslim.report.style import CSS, SCRIPT
from autoslim.report.table import simple_table
from autoslim.report.text import say_count, say_seconds
from autoslim.search import METHODS, Uniform
from autoslim.search._shaped import ShapedSearch

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_FAMILIES = ("searched on the supernet", "set by hand", "pruned", "training in the loop")
_LOOP = ("netadapt", "amc", "rl")
HEAD = ("method", "accuracy", "deviation", "to uniform", "95% interval", "to AutoSlim", "95% interval", "MACs",
         "parameters", "memory", "latency", "seeds")  # fmt: skip

Row = Mapping[str, Any]


def render_page(result: Mapping[str, Any], *, plotly_js: str) -> str:
    """The whole page, from what `compare.json` holds; `plotly_js` is inlined once."""
    rows: list[Row] = result["rows"]
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    figures = {f"cost{at}": cost_figure([r for r in rows if r["budget"] == b]) for at, b in enumerate(budgets)}
    if len(budgets) > 1:
        figures["macs"] = macs_figure(rows)
    parts = [
        _section(
            f"At {budget}",
            _table(budget, rows) + _figure(f"cost{at}", figures, f"Test accuracy against search cost at {budget}")
            + "<figcaption>Points are means, bars the standard deviation over the seeds. Hollow: trained on from the "
            "weights that pruning kept, or from the supernet's. Left: methods that run nothing to choose widths. A "
            "point tells its name when pointed at.</figcaption>",
        )
        for at, budget in enumerate(budgets)
    ]  # fmt: skip
    parts += [
        *(
            [
                _section(
                    "Accuracy against MACs", _figure("macs", figures, "Test accuracy against MACs, a line per method")
                )
            ]
            if "macs" in figures
            else []
        ),
        _section("What each search costs", _costs(rows)),
        _section("Settings", _settings(result)),
    ]
    uneven = "".join(f"<li>More than 1% from its budget, not to be compared: {_text(x)}</li>" for x in result["uneven"])
    facts = {"network": result["model"], "data": result["data"], "seeds": _seeds(rows), "machine": result["machine"]}
    pairs = "".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>AutoSlim compared: {_text(result["model"])}</title>
<style>{CSS}</style>
</head>
<body>
<header><p class="eyebrow">AutoSlim comparison</p><h1>{_text(result["model"])}</h1>
<dl class="facts">{pairs}</dl></header>
<main>
<noscript><p class="note">The pictures need JavaScript; what they show is also told in the tables.</p></noscript>
<p class="note">{_text(caution(rows))}</p><ul>{uneven}</ul>
{"".join(parts)}
</main>
<script type="application/json" id="figures">{script_json(figures)}</script>
<script>{plotly_js}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def caution(rows: Sequence[Row]) -> str:
    """What so many seeds can carry."""
    least = min(len(row["seeds"]) for row in rows)
    if least == 1:
        return "One seed: a difference can't be told from noise."
    return (
        f"{_seeds(rows)} seeds. An interval that has 0 in it carries no claim, in either direction"
        + ("; with so few it nearly always has." if least < 5 else ".")
    )  # fmt: skip


def family(method: str) -> int:
    """The place of a method in `_FAMILIES`.

    >>> [family(name) for name in ("autoslim", "uniform", "l1 (kept weights)", "netadapt")]
    [0, 1, 2, 3]
    """
    name = method.removesuffix(KEPT)
    if name in BASELINES:
        return 3 if name in _LOOP else 2
    return int(name in METHODS and issubclass(METHODS[name], (Uniform, ShapedSearch)))


def cost_figure(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy against search cost, a trace per family; who spends nothing stands in a row at the left."""
    exponents = [math.log10(row["search_image_macs"]) for row in rows if row["search_image_macs"] > 0] or [0.0]
    low, span = min(exponents), max(max(exponents) - min(exponents), 0.5)
    free = [row["method"] for row in rows if row["search_image_macs"] == 0]

    def place(row: Row) -> float:
        """The exponent of ten; those at no cost stand beside each other, to the left of the others."""
        if row["search_image_macs"] > 0:
            return math.log10(row["search_image_macs"])
        return low - span * (0.55 - 0.4 * (free.index(row["method"]) + 0.5) / len(free))

    numbers = [(lead, power) for power in range(math.floor(low), math.ceil(low + span) + 1) for lead in (1, 2, 5)]
    marks = {math.log10(lead * 10.0**power): f"{lead}e{power}" for lead, power in numbers}
    marks = {at: name for at, name in marks.items() if low - 0.1 * span <= at <= low + 1.05 * span}
    marks[low - 0.35 * span] = "none"
    axis = {"tickmode": "array", "tickvals": list(marks), "ticktext": list(marks.values()), "zeroline": False}
    labelled = {name for row in rows if not (name := row["method"]).endswith(KEPT)} - {*free} | {"uniform"}
    return {
        "data": [_points(rows, kind, [place(row) for row in rows], labelled) for kind in range(len(_FAMILIES))],
        "layout": layout_of(
            480,
            xaxis={**axis, "title": {"text": "search cost, multiply-accumulates of all passes on all images"}},
            yaxis={"title": {"text": "test accuracy, %"}, "zeroline": False},
        ),
    }


def macs_figure(rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy against MACs: a line per method through its budgets, a colour per family."""
    traces: list[dict[str, Any]] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        its = sorted((row for row in rows if row["method"] == method), key=lambda row: row["macs"])
        kind = family(method)
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": safe(method),
            "legendgroup": _FAMILIES[kind], "legendgrouptitle": {"text": _FAMILIES[kind]},
            "x": [row["macs"] / 1e6 for row in its], "line": {"width": 1, "color": COLOURS[kind]},
            **_heights(its), "marker": {"size": 8, "color": COLOURS[kind], "symbol": _symbol(method)},
            "hovertemplate": "%{y:.2f}% at %{x:.4g} M<extra>%{fullData.name}</extra>",
        })  # fmt: skip
    layout = layout_of(
        520,
        xaxis={"title": {"text": "MACs, million"}, "zeroline": False},
        yaxis={"title": {"text": "test accuracy, %"}, "zeroline": False},
    )
    layout["legend"] = {"groupclick": "toggleitem"}
    return {"data": traces, "layout": layout}


def _points(rows: Sequence[Row], kind: int, places: Sequence[float], labelled: set[str]) -> dict[str, Any]:
    at = [index for index, row in enumerate(rows) if family(row["method"]) == kind]
    its = [rows[index] for index in at]
    return {
        "type": "scatter", "mode": "markers+text", "name": _FAMILIES[kind],
        "x": [places[index] for index in at], **_heights(its),
        "text": [safe(row["method"]) if row["method"] in labelled else "" for row in its],
        "textposition": ["top center" if number % 2 else "bottom center" for number in range(len(its))],
        "marker": {"size": 10, "color": COLOURS[kind], "symbol": [_symbol(row["method"]) for row in its]},
        "customdata": [f"{safe(row['method'])}, {row['search_image_macs']:.3g} image-MACs" for row in its],
        "hovertemplate": "%{customdata}<br>%{y:.2f}%<extra></extra>", "cliponaxis": False,
    }  # fmt: skip


def _heights(rows: Sequence[Row]) -> dict[str, Any]:
    """Means and spreads; no bar where there is one seed."""
    spreads = [100 * (row["accuracy_std"] or 0) for row in rows]
    return {
        "y": [100 * row["accuracy_mean"] for row in rows],
        "error_y": {"type": "data", "array": spreads, "thickness": 1, "width": 3, "visible": any(spreads)},
    }


def _symbol(method: str) -> str:
    return "circle-open" if method.endswith(KEPT) else "star" if method == "autoslim" else "circle"


def _table(budget: str, rows: Sequence[Row]) -> str:
    its = sorted((row for row in rows if row["budget"] == budget), key=lambda row: -row["accuracy_mean"])
    return simple_table(f"Networks at {budget}, the most accurate first.", HEAD, [row_cells(row) for row in its])


def row_cells(row: Row) -> list[str]:
    """A row of the table as text, in the columns of the page."""
    spread = "" if row["accuracy_std"] is None else f"{row['accuracy_std']:.2%}"
    differences = [cell for name in ("uniform", "autoslim") for cell in say_difference(row[f"to_{name}"])]
    sizes = [say_count(row[cost]) for cost in ("macs", "params", "memory")]
    cells = [f"{row['accuracy_mean']:.2%}", spread, *differences, *sizes, f"{row['latency']:.3g} ms"]
    return [row["method"], *cells, str(len(row["seeds"]))]


def say_difference(difference: Mapping[str, Any] | None) -> tuple[str, str]:
    """A paired difference in points, and its interval.

    >>> say_difference({"mean": 0.0125, "low": -0.01, "high": 0.035})
    ('+1.25', '-1.00 to +3.50')
    """
    if difference is None:
        return "", ""
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    return f"{100 * mean:+.2f}", "" if low is None else f"{100 * low:+.2f} to {100 * high:+.2f}"


def _costs(rows: Sequence[Row]) -> str:
    """A line per method: a search finds the networks of all budgets."""
    searches = {row["method"].removesuffix(KEPT): row for row in rows}
    cells = [
        [name, f"{row['search_image_macs']:.3g}", say_seconds(row["search_seconds"]), say_times(row["times_autoslim"])]
        for name, row in sorted(searches.items(), key=lambda each: each[1]["search_image_macs"])
    ]
    budgets = len({row["budget"] for row in rows})
    caption = (
        f"One search for {budgets} budget{'s' if budgets > 1 else ''}, mean over the seeds: forward and backward "
        "passes as counted, with the training that it starts from (supernet, or the network to prune); final "
        "trainings apart."
    )
    return simple_table(caption, ["method", "image-MACs", "time", "times AutoSlim's"], cells)


def say_times(times: float | None) -> str:
    return "" if times is None else f"{times:.3g}x"


def _settings(result: Mapping[str, Any]) -> str:
    work = {**result["work"], **result["recipe"]}
    methods = simple_table("Of each method.", ["method", "settings"], list(result["methods"].items()), words=(1,))
    recipe = simple_table("Of all trainings.", ["setting", "value"], list(work.items()), words=(1,))
    command = f"<p>To make it again:</p><pre><code>{_text(result['command'])}</code></pre>" if result["command"] else ""
    return f"{methods}<br>{recipe}{command}"


def _seeds(rows: Sequence[Row]) -> str:
    counts = sorted({len(row["seeds"]) for row in rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n{body}</section>\n"


def _figure(name: str, figures: Mapping[str, Any], alt: str) -> str:
    height = figures[name]["layout"]["height"]
    return (
        f'<figure><div class="scroll" tabindex="0"><div id="{name}" role="img" aria-label="{_text(alt)}"\n'
        f'style="min-width:640px;height:{height}px"></div></div></figure>'
    )


def _text(value: object) -> str:
    return html.escape(str(value))
