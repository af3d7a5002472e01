"""Picture A: the widths of every layer at every budget."""

from collections.abc import Sequence
from typing import Any

from autoslim.graph import ChannelGraph, Group
from autoslim.report.picture import CLEAR, COLOURS, FAINT, GREY, Picture, colour, layout_of, safe, ticks
from autoslim.report.read import BudgetResult
from autoslim.report.text import say_share

_LABEL = 26  # characters of a layer's name under its bars; the whole name is in the hover text and in the table


def widths_picture(graph: ChannelGraph, budgets: Sequence[BudgetResult]) -> Picture:
    """Picture A: channels per group at every budget, in the order the layers run."""
    groups = graph.groups
    traces = [_outline(groups), *(_bars(groups, result, k, len(budgets)) for k, result in enumerate(budgets))]
    layout = layout_of(430, xaxis=_layer_axis(groups), yaxis={"title": {"text": "channels"}, "rangemode": "tozero"})
    layout |= {"barmode": "overlay", "bargap": 0}
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


def _outline(groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": "full width",
        "x": list(range(len(groups))),
        "y": [group.size for group in groups],
        "width": 0.9,
        "marker": {
            "color": [CLEAR if group.frozen is None else FAINT for group in groups],
            "line": {"color": GREY, "width": 0.8},
        },
        "customdata": [
            f"{safe(group.name)}: {group.size} channels{'' if group.frozen is None else ', frozen'}" for group in groups
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _bars(groups: Sequence[Group], result: BudgetResult, index: int, num_budgets: int) -> dict[str, Any]:
    width = 0.78 / num_budgets
    second_round = index // len(COLOURS) % 2 == 1
    return {
        "type": "bar",
        "name": safe(result.budget),
        "x": list(range(len(groups))),
        "y": [result.widths[group.name] if group.frozen is None else None for group in groups],
        "width": width,
        "offset": -0.39 + index * width,
        "marker": {"color": colour(index), "pattern": {"shape": "/" if second_round else ""}},
        "customdata": [
            f"{safe(group.name)}: {result.widths[group.name]} of {group.size} channels, "
            f"{say_share(result.widths[group.name] / group.size)}"
            for group in groups
        ],
        "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
    }


def _layer_axis(groups: Sequence[Group]) -> dict[str, Any]:
    axis = ticks([safe(_shorten(group.name)) for group in groups])
    return axis | {"range": [-0.6, len(groups) - 0.4], "tickangle": -90 if len(groups) > 8 else -45, "showgrid": False}


def _kept(groups: Sequence[Group], result: BudgetResult) -> float:
    return sum(result.widths[group.name] for group in groups) / max(sum(group.size for group in groups), 1)


def _shorten(name: str) -> str:
    """The name with its middle left out if it is long: the ends tell the block and the layer."""
    return name if len(name) <= _LABEL else f"{name[: _LABEL // 2 - 1]}…{name[-_LABEL // 2 :]}"
