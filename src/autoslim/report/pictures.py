"""The report's three pictures as plain plotly figures: dictionaries of data and layout, made from plain records.

One colour is one budget, everywhere on the page; a filled circle is AutoSlim, a hollow diamond the uniform baseline,
grey is the user's own network. Plotly reads a small HTML in every label, so names are escaped before they go in.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoslim.graph import ChannelGraph, Group
from autoslim.report.read import BudgetResult, Step, Summary
from autoslim.report.text import NOT_RUN, points, say_accuracy, say_count, say_difference, say_share

# Okabe and Ito's colours for all kinds of colour vision, without those too faint on white or on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_GREY, _FAINT, _CLEAR = "#808890", "rgba(128,136,144,0.28)", "rgba(0,0,0,0)"
_LABEL = 26  # characters of a layer's name under its bars; the whole name is in the hover text and in the table


@dataclass(frozen=True, kw_only)
class Picture:
    """A figure of the page.

    Attributes:
        name: Its id in the page.
        title: Its heading.
        alt: What it shows, in words, for those who can't see it.
        caption: How to read it.
        figure: Plotly's data and layout; None if there is nothing to draw.
        min_width: Pixels it needs; a narrower page scrolls it.
    """

    name: str
    title: str
    alt: str
    caption: str
    figure: dict[str, Any] | None
    min_width: int = 0


def colour(index: int) -> str:
    """The colour of the budget at `index`."""
    return COLOURS[index % len(COLOURS)]


def widths_picture(graph: ChannelGraph, budgets: Sequence[BudgetResult]) -> Picture:
    """Picture A: channels per group at every budget, in the order the layers run."""
    groups = graph.groups
    traces = [_outline(groups), *(_bars(groups, result, k, len(budgets)) for k, result in enumerate(budgets))]
    shares = [[value and value / group.size for value, group in zip(t["y"], groups, strict=True)] for t in traces]
    layout = _layout(430, xaxis=_layer_axis(groups), yaxis={"title": {"text": "channels"}, "rangemode": "tozero"})
    layout |= {"barmode": "overlay", "bargap": 0, "updatemenus": [_switch([t["y"] for t in traces], shares)]}
    free = sum(group.frozen is None for group in groups)
    kept = "; ".join(f"{r.budget} keeps {say_share(_kept(groups, r))} of all channels" for r in budgets)
    return Picture(
        name="widths",
        title="Widths per layer",
        alt=f"Bar chart of the channels of {len(groups)} groups of layers, {free} of them free. {kept}.",
        caption="Channels kept by each group of layers, in the order they run. The outline is the full width; a "
        "filled grey bar is a frozen group, which keeps all its channels.",
        figure={"data": traces, "layout": layout} if groups else None,
        min_width=110 + len(groups) * max(14, 6 * len(budgets)),
    )


def cost_picture(summary: Summary, steps: Sequence[Step]) -> Picture:
    """Picture B: accuracy against MACs; the greedy path, the retrained networks and the base network."""
    traces = [
        *([_path(steps)] if steps else []),
        *(_slim_point(result, index) for index, result in enumerate(summary.budgets) if result.slim.test is not None),
        *([_base_point(summary)] if summary.base.test is not None else []),
    ]
    layout = _layout(
        430,
        xaxis={"title": {"text": "MACs, million"}, "rangemode": "tozero", "zeroline": False},
        yaxis={"title": {"text": f"{_safe(summary.metric)}, %"}, "zeroline": False},
    )
    walked = (
        f"The search took {len(steps)} steps, from {say_count(steps[0].macs)} MACs at {say_accuracy(steps[0].accuracy)} "
        f"to {say_count(steps[-1].macs)} MACs at {say_accuracy(steps[-1].accuracy)}."
        if steps
        else "The search accepted no step."
    )
    return Picture(
        name="cost",
        title=f"{summary.metric.capitalize()} against cost",
        alt=f"Chart of {summary.metric} against MACs. {walked} {_tests_in_words(summary)}",
        caption="The line is the greedy search: after every accepted step, the supernet's accuracy on search images. "
        "The points are test images: the slim networks after retraining, and your network. The line and the points "
        "were measured on different images and are not one scale of merit. Neither axis of accuracy starts at 0.",
        figure={"data": traces, "layout": layout} if traces else None,
    )


def uniform_picture(summary: Summary) -> Picture:
    """Picture C: test accuracy of AutoSlim and of the uniform baseline beside each other, a row per budget."""
    rows = [(r.slim.test, r.uniform.test if r.uniform else None) for r in summary.budgets]
    ties = [(index, *row) for index, row in enumerate(rows) if row[0] is not None and row[1] is not None]
    base = summary.base.test
    traces = [_tie(ties), _dots(rows, 0), _dots(rows, 1), *([_base_line(base, len(rows))] if base is not None else [])]
    known = [100 * value for value in (base, *(value for row in rows for value in row)) if value is not None]
    layout = _layout(
        150 + 52 * len(rows),
        xaxis={"title": {"text": f"test {_safe(summary.metric)}, %"}, "range": _room(known), "zeroline": False},
        yaxis=_ticks([_safe(r.budget).replace(",", ",<br>") for r in summary.budgets]) | {"showgrid": False},
    )
    layout["yaxis"]["range"] = [len(rows) - 0.4, -0.6]
    return Picture(
        name="uniform",
        title="AutoSlim and the uniform network",
        alt=f"Dumbbell chart of test {summary.metric}. {_tests_in_words(summary)}",
        caption="Filled circle: AutoSlim. Hollow diamond: the same ratio for every layer, at about the same cost. Dashed "
        "line: your network. The axis does not start at 0, so that small differences can be seen.",
        figure={"data": traces, "layout": layout} if any(value is not None for row in rows for value in row) else None,
    )


# Parts of picture A ---------------------------------------------------------------------------------------------------


def _outline(groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": "full width",
        "x": list(range(len(groups))),
        "y": [group.size for group in groups],
        "width": 0.9,
        "marker": {
            "color": [_CLEAR if group.frozen is None else _FAINT for group in groups],
            "line": {"color": _GREY, "width": 0.8},
        },
        "customdata": [
            f"{_safe(group.name)}: {group.size} channels{'' if group.frozen is None else ', frozen'}" for group in groups
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _bars(groups: Sequence[Group], result: BudgetResult, index: int, num_budgets: int) -> dict[str, Any]:
    width = 0.78 / num_budgets
    second_round = index // len(COLOURS) % 2 == 1
    return {
        "type": "bar",
        "name": _safe(result.budget),
        "x": list(range(len(groups))),
        "y": [result.widths[group.name] if group.frozen is None else None for group in groups],
        "width": width,
        "offset": -0.39 + index * width,
        "marker": {"color": colour(index), "pattern": {"shape": "/" if second_round else ""}},
        "customdata": [
            f"{_safe(group.name)}: {result.widths[group.name]} of {group.size} channels, "
            f"{say_share(result.widths[group.name] / group.size)}"
            for group in groups
        ],
        "hovertemplate": f"%{{customdata}}<extra>{_safe(result.budget)}</extra>",
    }


def _layer_axis(groups: Sequence[Group]) -> dict[str, Any]:
    axis = _ticks([_safe(_shorten(group.name)) for group in groups])
    return axis | {"range": [-0.6, len(groups) - 0.4], "tickangle": -90 if len(groups) > 8 else -45, "showgrid": False}


def _switch(channels: list[Any], shares: list[Any]) -> dict[str, Any]:
    """Two buttons: bars in channels, or as a share of the full width, where narrow layers can be seen too."""

    def button(label: str, values: list[Any], title: str, form: str) -> dict[str, Any]:
        axis = {"yaxis.title.text": title, "yaxis.tickformat": form, "yaxis.autorange": True}
        return {"label": label, "method": "update", "args": [{"y": values}, axis]}

    return {
        "type": "buttons",
        "direction": "right",
        "showactive": False,
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "pad": {"t": 0, "l": 0},
        "bgcolor": _CLEAR,
        "bordercolor": _GREY,
        "buttons": [
            button("channels", channels, "channels", ""),
            button("share of full width", shares, "share of full width", ".0%"),
        ],
    }


def _kept(groups: Sequence[Group], result: BudgetResult) -> float:
    return sum(result.widths[group.name] for group in groups) / max(sum(group.size for group in groups), 1)


def _shorten(name: str) -> str:
    """The name with its middle left out if it is long: the ends tell the block and the layer."""
    return name if len(name) <= _LABEL else f"{name[: _LABEL // 2 - 1]}…{name[-_LABEL // 2 :]}"


# Parts of pictures B and C --------------------------------------------------------------------------------------------


def _path(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "supernet, on search images",
        "x": [step.macs / 1e6 for step in steps],
        "y": [100 * step.accuracy for step in steps],
        "line": {"color": _GREY, "width": 1.5},
        "marker": {"size": 4},
        "customdata": [f"step {step.step}: {_safe(step.group)}, {step.before} to {step.after}" for step in steps],
        "hovertemplate": "%{customdata}<br>%{x:.4g} M, %{y:.1f}%<extra></extra>",
    }


def _slim_point(result: BudgetResult, index: int) -> dict[str, Any]:
    style = {"color": colour(index), "symbol": "circle", "size": 13}
    name = f"AutoSlim {_safe(result.budget)}, test"
    return _point(name, result.slim.costs["macs"], result.slim.test, style)


def _base_point(summary: Summary) -> dict[str, Any]:
    style = {"color": _GREY, "symbol": "star", "size": 15}
    return _point("your network, test", summary.base.costs["macs"], summary.base.test, style)


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
        "line": {"color": _GREY, "width": 2},
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


def _base_line(base: float, num_rows: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"your network, {say_accuracy(base)}",
        "x": [100 * base, 100 * base],
        "y": [-0.6, num_rows - 0.4],
        "line": {"color": _GREY, "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _room(values: Sequence[float]) -> list[float] | None:
    """An axis range with room for the labels beside the outermost points."""
    if not values:
        return None
    margin = max(0.28 * (max(values) - min(values)), 0.5)
    return [min(values) - margin, max(values) + margin]


def _tests_in_words(summary: Summary) -> str:
    words = [f"Your network: {say_accuracy(summary.base.test)}."]
    for result in summary.budgets:
        slim, uniform = result.slim.test, result.uniform.test if result.uniform else None
        gap = points(slim, uniform)
        ends = "" if gap is None else f", a difference of {say_difference(gap, ' points')}"
        words.append(f"{result.budget}: AutoSlim {say_accuracy(slim)}, uniform {say_accuracy(uniform)}{ends}.")
    return " ".join(words)


# Shared ---------------------------------------------------------------------------------------------------------------


def _layout(height: int, **more: Any) -> dict[str, Any]:
    """What all pictures share: no background, a grey that reads on light and dark, dragging left to the page."""
    axes = {
        name: {"automargin": True, "gridcolor": _FAINT, "zerolinecolor": _FAINT, "fixedrange": False} | more[name]
        for name in ("xaxis", "yaxis")
    }
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 16, "t": 64, "b": 8},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": _GREY},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "dragmode": False,
        **axes,
    }


def _ticks(labels: list[str]) -> dict[str, Any]:
    return {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": labels, "zeroline": False}


def _safe(name: str) -> str:
    """A name for plotly's labels, which read a small HTML; quotes stay, as plotly knows no entity for them."""
    return html.escape(name, quote=False)


def nothing_to_draw(picture: Picture) -> str:
    """What stands in place of a picture without data."""
    return f"{picture.title}: {NOT_RUN}, so there is nothing to draw."
