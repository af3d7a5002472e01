"""A picture that is there after `autoslim trust`: accuracy in the supernet against accuracy alone, a point a sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.report.picture import GREY, Picture, layout_of
from autoslim.report.read import _Node, _parse, _text
from autoslim.report.text import say_accuracy, say_count

_SYMBOLS = ("circle-open", "triangle-up-open", "square-open", "x-thin-open")  # colours belong to budgets


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sample; accuracies are fractions, on search images."""

    stratum: int
    macs: float
    supernet: float
    alone: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """trust.json; each tau with its interval, numbers that are not known None."""

    epochs: int
    images: int
    macs: tuple[float, float]
    strata: int
    supernet: tuple[float | None, ...]
    costs: tuple[float | None, ...]
    within: tuple[float | None, ...]
    points: tuple[Point, ...]


def read_ranking(file: Path) -> Ranking | None:
    """Reads and checks trust.json; None if it is not there."""
    if not file.exists():
        return None
    node = _Node(file, "the file", _parse(file, _text(file))).typed("Trust")
    low, high = (item.cost() for item in node.at("macs").each())
    loss, macs = node.at("orders").at("loss"), node.at("orders").at("macs")
    return Ranking(
        **{key: node.at(key).whole() for key in ("epochs", "images", "strata")},
        macs=(low, high),
        supernet=tuple(_tau(loss.at(key)) for key in ("tau", "low", "high")),
        costs=tuple(_tau(macs.at(key)) for key in ("tau", "low", "high")),
        within=tuple(_tau(loss.at(f"within{key}")) for key in ("", "_low", "_high")),
        points=tuple(_point(item) for item in node.at("points").each()),
    )


def trust_picture(ranking: Ranking) -> Picture:
    """Picture D: what the supernet says of each sample, and what became of it alone."""
    tau = f"Kendall's tau: the supernet's loss {_say(ranking.supernet)}; MACs alone {_say(ranking.costs)}"
    return Picture(
        name="trust",
        title="Does the supernet rank well?",
        alt=f"Scatter chart of {len(ranking.points)} sub-networks: accuracy in the supernet against accuracy alone. "
        f"{tau}.",
        caption=f"{len(ranking.points)} sub-networks drawn at random, each trained alone for {ranking.epochs} epochs "
        f"and judged on {ranking.images} search images. {tau}; the supernet's loss among networks of about the same "
        f"cost {_say(ranking.within)}. In brackets: 95% of the bootstrap. Neither axis starts at 0.",
        figure={"data": [_stratum(ranking, index) for index in range(ranking.strata)], "layout": _layout()},
    )


def _point(node: _Node) -> Point:
    names = {"supernet": "supernet_accuracy", "alone": "alone_accuracy"}
    shares = {key: node.at(name).number(0, 1, "a fraction from 0 to 1") for key, name in names.items()}
    return Point(stratum=node.at("stratum").whole(), macs=node.at("macs").cost(), **shares)


def _tau(node: _Node) -> float | None:
    return None if node.value is None else node.number(-1.000001, 1.000001, "a number from -1 to 1, or null")


def _say(tau: tuple[float | None, ...]) -> str:
    middle, low, high = ("none" if value is None else f"{value:.2f}" for value in tau)
    return f"{middle} ({low} to {high})"


def _layout() -> dict[str, Any]:
    return layout_of(
        430,
        xaxis={"title": {"text": "in the supernet, %"}, "zeroline": False},
        yaxis={"title": {"text": "trained alone, %"}, "zeroline": False},
    )


def _stratum(ranking: Ranking, index: int) -> dict[str, Any]:
    low, high = ranking.macs
    edges = [low + (high - low) * part / ranking.strata for part in (index, index + 1)]
    points = [point for point in ranking.points if point.stratum == index]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{say_count(edges[0])} to {say_count(edges[1])} MACs",
        "x": [100 * point.supernet for point in points],
        "y": [100 * point.alone for point in points],
        "marker": {"size": 11, "color": GREY, "symbol": _SYMBOLS[index % len(_SYMBOLS)], "line": {"width": 2}},
        "customdata": [f"{say_count(p.macs)} MACs, {say_accuracy(p.alone)} alone" for p in points],
        "hovertemplate": "%{customdata}<br>%{x:.1f}% in the supernet<extra></extra>",
    }
