"""The comparison as one page: its table, two kinds of pictures, what each search costs, and all settings."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autoslim.baselines import BASELINES
from autoslim.compare._picture import Point, draw_points
from autoslim.compare._result import KEPT
from autoslim.report.style import TABLES, colour, escape, whole_page
from autoslim.report.table import simple_table
from autoslim.report.text import say_count, say_seconds
from autoslim.search import METHODS
from autoslim.search._pool import FixedSearch

_FAMILIES = ("searched on the supernet", "set by hand", "pruned", "training in the loop")
_LOOP = ("netadapt", "amc", "rl")
HEAD = ("method", "accuracy", "deviation", "to uniform", "95% interval", "to AutoSlim", "95% interval", "MACs",
         "parameters", "memory", "latency", "seeds")  # fmt: skip

Row = Mapping[str, Any]


def render_page(result: Mapping[str, Any]) -> str:
    """The whole page, from what `compare.json` holds; it needs nothing else."""
    rows: list[Row] = result["rows"]
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    parts = [
        _section(
            f"At {budget}",
            _table(budget, rows)
            + _figure(
                cost_picture([row for row in rows if row["budget"] == budget]),
                f"Test accuracy against search cost at {budget}",
            )
            + "<figcaption>Points are means, bars the standard deviation over the seeds. Hollow: trained on from the "
            "weights that pruning kept, or from the supernet's. Left: methods that run nothing to choose widths. A "
            "point tells its name when pointed at.</figcaption>",
        )
        for budget in budgets
    ]
    parts += [
        *(
            _section("Accuracy against MACs", _figure(macs_picture(rows), "Test accuracy against MACs, line by method"))
            for _ in budgets[1:2]  # a single budget is a single place
        ),
        _section("What each search costs", _costs(rows)),
        _section("Settings", _settings(result)),
    ]
    uneven = "".join(f"<li>More than 1% uneven, not to be compared: {escape(x)}</li>" for x in result["uneven"])
    facts = {"network": result["model"], "data": result["data"], "seeds": _seeds(rows), "machine": result["machine"]}
    pairs = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    header = f"""<header><p class="eyebrow">AutoSlim comparison</p><h1>{escape(result["model"])}</h1>
<dl class="facts">{pairs}</dl></header>"""
    main = f"""<p class="note">{escape(caution(rows))}</p><ul>{uneven}</ul>
{"".join(parts)}"""
    title = f"AutoSlim compared: {escape(result['model'])}"
    return whole_page(title, header, main, scripts=f"<script>{TABLES}</script>")


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
    return int(name in METHODS and issubclass(METHODS[name], FixedSearch))


def cost_picture(rows: Sequence[Row]) -> str:
    """Accuracy against search cost; who spends nothing stands in a row at the left."""
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
    ticks = [(low - 0.35 * span, "none")]
    ticks += [(at, name) for at, name in marks.items() if low - 0.1 * span <= at <= low + 1.05 * span]
    labelled = {name for row in rows if not (name := row["method"]).endswith(KEPT)} - {*free} | {"uniform"}
    points = [_point(row, place(row), f"{row['search_image_macs']:.3g} image-MACs", labelled) for row in rows]
    title = "search cost, multiply-accumulates of all passes on all images"
    return draw_points(points, ticks=ticks, title=title)


def macs_picture(rows: Sequence[Row]) -> str:
    """Accuracy against MACs: a line per method through its budgets, a colour per family."""
    lines = [
        [
            _point(row, row["macs"] / 1e6, f"{row['macs'] / 1e6:.4g}M MACs")
            for row in sorted((row for row in rows if row["method"] == method), key=lambda row: row["macs"])
        ]
        for method in dict.fromkeys(row["method"] for row in rows)
    ]
    points = [point for line in lines for point in line]
    low, high = min(p.x for p in points), max(p.x for p in points)
    ticks = [(x, f"{x:.3g}") for x in sorted({low, (low + high) / 2, high})]
    return draw_points(points, ticks=ticks, title="MACs, million", lines=lines)


def _point(row: Row, x: float, where: str, labelled: Collection[str] = ()) -> Point:
    mean, spread, method = 100 * row["accuracy_mean"], 100 * (row["accuracy_std"] or 0), row["method"]
    return Point(
        x=x, y=mean, spread=spread, tone=family(method), hollow=method.endswith(KEPT),
        name=method.removesuffix(KEPT) if method in labelled else "",
        told=f"{method}: {mean:.2f}%" + (f" (deviation {spread:.2f})" if spread else "") + f", {where}",
    )  # fmt: skip


def _legend() -> str:
    names = (f'<span style="color:{colour(at)}">&#9679;</span> {name}' for at, name in enumerate(_FAMILIES))
    return f'<p class="soft">{" &nbsp; ".join(names)}</p>'


def _table(budget: str, rows: Sequence[Row]) -> str:
    its = sorted((row for row in rows if row["budget"] == budget), key=lambda row: -row["accuracy_mean"])
    caption = f"Networks at {budget}, the most accurate first."
    if any(row["method"].endswith(KEPT) for row in its):
        caption += f"{KEPT}: trained on from them, and held against their kind; uniform's is slimmable's."
    return simple_table(caption, HEAD, [row_cells(row) for row in its])


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
    command = (
        f"<p>To make it again:</p><pre><code>{escape(result['command'])}</code></pre>" if result["command"] else ""
    )
    return f"{methods}<br>{recipe}{command}"


def _seeds(rows: Sequence[Row]) -> str:
    counts = sorted({len(row["seeds"]) for row in rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n"


def _figure(picture: str, alt: str) -> str:
    return f'<figure role="img" aria-label="{escape(alt)}">{_legend()}{picture}</figure>'
