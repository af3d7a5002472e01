"""Pictures B and C: accuracy against cost, and AutoSlim beside the uniform network."""

from collections.abc import Sequence
from typing import Any

from autoslim.report.picture import GREY, Picture, colour, layout_of, safe
from autoslim.report.read import BudgetResult, Step, Summary
from autoslim.report.text import points, say_accuracy, say_count, say_difference

_LINE = "The line is the greedy search: after every accepted step, the supernet's accuracy on search images. "
_APART = "They were measured on different images, so the line's height can't be compared with the points'. "


def cost_picture(summary: Summary, steps: Sequence[Step]) -> Picture:
    """Picture B: accuracy against MACs; the greedy path, the retrained networks and the base network."""
    traces = [
        *([_path(steps)] if steps else []),
        *(_slim_point(result, index) for index, result in enumerate(summary.budgets) if result.slim.test is not None),
        *([_base_point(summary)] if summary.base.test is not None else []),
    ]
    layout = layout_of(
        430,
        xaxis={"title": {"text": "MACs, million"}, "rangemode": "tozero", "zeroline": False},
        yaxis={"title": {"text": f"{safe(summary.metric)}, %"}, "zeroline": False},
    )
    walked = (
        f"The search took {len(steps)} steps, from {_say_step(steps[0])} to {_say_step(steps[-1])}."
        if steps
        else "The search accepted no step."
    )
    return Picture(
        name="cost",
        title=f"{summary.metric.capitalize() if summary.metric.islower() else summary.metric} against cost",
        alt=f"Chart of {summary.metric} against MACs. {walked} {_tests_in_words(summary)}",
        caption=(_LINE if steps else "")
        + "The points are test images: the slim networks after retraining, and your network. "
        + (_APART if steps else "")
        + "The vertical axis does not start at 0.",
        figure={"data": traces, "layout": layout} if traces else None,
    )


def uniform_picture(summary: Summary) -> Picture:
    """Picture C: test accuracy of AutoSlim and of the uniform baseline beside each other, a row per budget."""
    rows = [(r.slim.test, r.uniform.test if r.uniform else None) for r in summary.budgets]
    ties = [(index, *row) for index, row in enumerate(rows) if row[0] is not None and row[1] is not None]
    base = summary.base.test
    traces = [_tie(ties), _dots(rows, 0), _dots(rows, 1), *([_base_line(base, len(rows))] if base is not None else [])]
    known = [100 * value for value in (base, *(value for row in rows for value in row)) if value is not None]
    layout = layout_of(
        150 + 66 * len(rows),
        xaxis={"title": {"text": f"test {safe(summary.metric)}, %"}, "range": _room(known), "zeroline": False},
        yaxis={"range": [len(rows) - 0.5, -0.7], "showticklabels": False, "showgrid": False, "zeroline": False},
    )
    layout["annotations"] = [_row_label(r.budget, index) for index, r in enumerate(summary.budgets)]
    return Picture(
        name="uniform",
        title="AutoSlim and the uniform network",
        alt=f"Dumbbell chart of test {summary.metric}. {_tests_in_words(summary)}",
        caption="Filled circle: AutoSlim. Hollow diamond: the uniform network, one ratio for all layers at about the "
        "same cost. Dashed line: your network. The axis does not start at 0, so that small differences can be seen.",
        figure={"data": traces, "layout": layout} if any(value is not None for row in rows for value in row) else None,
    )


def _say_step(step: Step) -> str:
    return f"{say_count(step.macs)} MACs at {say_accuracy(step.accuracy)}"


def _path(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "supernet, on search images",
        "x": [step.macs / 1e6 for step in steps],
        "y": [100 * step.accuracy for step in steps],
        "line": {"color": GREY, "width": 1.5},
        "marker": {"size": 5},
        "customdata": [f"step {step.step}: {safe(step.group)}, {step.before} to {step.after}" for step in steps],
        "hovertemplate": "%{customdata}<br>%{x:.4g} M, %{y:.1f}%<extra></extra>",
    }


def _slim_point(result: BudgetResult, index: int) -> dict[str, Any]:
    style = {"color": colour(index), "symbol": "circle", "size": 13}
    name = f"{safe(result.budget)}, retrained"
    return _point(name, result.slim.costs["macs"], result.slim.test, style)


def _base_point(summary: Summary) -> dict[str, Any]:
    style = {"color": GREY, "symbol": "star", "size": 15}
    return _point("your network", summary.base.costs["macs"], summary.base.test, style)


def _point(name: str, macs: float, accuracy: float | None, style: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [macs / 1e6],
        "y": [100 * (accuracy or 0)],
        "marker": style,
        "cliponaxis": False,
        "hovertemplate": "%{x:.4g} M, %{y:.1f}%<extra>%{fullData.name}</extra>",
    }


def _tie(ties: Sequence[tuple[int, Any, Any]]) -> dict[str, Any]:
    """The lines between the two ends of every dumbbell: one trace, broken by None."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [value for _, slim, uniform in ties for value in (100 * slim, 100 * uniform, None)],
        "y": [value for index, _, _ in ties for value in (index, index, None)],
        "line": {"color": GREY, "width": 2},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _dots(rows: Sequence[tuple[float | None, float | None]], side: int) -> dict[str, Any]:
    """The ends of one method (0: AutoSlim, 1: uniform), each labelled on the side away from the other end."""
    at = [(index, row[side], row[1 - side]) for index, row in enumerate(rows) if row[side] is not None]
    tones = [colour(index) for index, _, _ in at]
    hollow = {"symbol": "diamond-open", "size": 12, "color": tones, "line": {"width": 2.5}}
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": ("AutoSlim", "uniform")[side],
        "x": [100 * (value or 0) for _, value, _ in at],
        "y": [index for index, _, _ in at],
        "text": [say_accuracy(value) for _, value, _ in at],
        "textposition": [
            "middle left" if (value or 0, -side) < (other or 0, side - 1) else "middle right" for _, value, other in at
        ],
        "marker": hollow if side else {"symbol": "circle", "size": 13, "color": tones},
        "cliponaxis": False,
        "hovertemplate": "%{x:.2f}%<extra>%{fullData.name}</extra>",
    }


def _row_label(budget: str, row: int) -> dict[str, Any]:
    """The budget's name above its dumbbell, from the left edge on: beside it, a phone would have no room."""
    place = {"xref": "paper", "x": 0, "xanchor": "left", "y": row - 0.42, "yanchor": "middle"}
    return {"text": safe(budget), "showarrow": False, "align": "left", **place}


def _base_line(base: float, num_rows: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"your network, {say_accuracy(base)}",
        "x": [100 * base, 100 * base],
        "y": [-0.7, num_rows - 0.5],
        "line": {"color": GREY, "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _room(values: Sequence[float]) -> list[float] | None:
    """An axis range with room for the labels beside the outermost points."""
    if not values:
        return None
    margin = max(0.35 * (max(values) - min(values)), 0.5)
    return [min(values) - margin, max(values) + margin]


def _tests_in_words(summary: Summary) -> str:
    words = [f"Your network: {say_accuracy(summary.base.test)}."]
    for result in summary.budgets:
        slim, uniform = result.slim.test, result.uniform.test if result.uniform else None
        gap = points(slim, uniform)
        ends = "" if gap is None else f", a difference of {say_difference(gap, ' points')}"
        words.append(f"{result.budget}: AutoSlim {say_accuracy(slim)}, uniform {say_accuracy(uniform)}{ends}.")
    return " ".join(words)
