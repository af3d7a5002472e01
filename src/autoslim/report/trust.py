"""What `autoslim trust` leaves: accuracy in the supernet against accuracy alone, of sub-networks drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoslim.report._json import Node, open_json, open_lines
from autoslim.tasks import Metric


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sample; `supernet` and `alone` are the task's metric, on search images."""

    stratum: int
    macs: float
    supernet: float
    alone: float


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """trust.json, or the samples so far in trust.jsonl.

    Attributes:
        epochs: That each was trained alone.
        images: That judged it; None as long as not all samples are there.
        macs: The range that samples were drawn from.
        strata: Parts that the range was cut into.
        supernet: Kendall's tau of the supernet's loss with its interval, numbers that are not known None.
        costs: The same of MACs alone.
        within: The same of the supernet's loss among networks of about the same cost.
        points: The samples.
    """

    epochs: int
    images: int | None
    macs: tuple[float, float]
    strata: int
    supernet: tuple[float | None, ...]
    costs: tuple[float | None, ...]
    within: tuple[float | None, ...]
    points: tuple[Point, ...]


def read_ranking(folder: Path, scale: Metric) -> Ranking | None:
    """Reads and checks trust.json, or else the lines of trust.jsonl; None if neither is there."""
    file, unknown = folder / "trust.json", (None, None, None)
    if not file.exists():
        nodes = open_lines(folder / "trust.jsonl", "TrustSample", growing=True)
        points = tuple(_point(node, scale) for node in nodes)
        if not points:
            return None
        macs = min(point.macs for point in points), max(point.macs for point in points)
        epochs, strata = nodes[0].at("epochs").whole(), 1 + max(point.stratum for point in points)
        taus = dict.fromkeys(("supernet", "costs", "within"), unknown)
        return Ranking(epochs=epochs, images=None, macs=macs, strata=strata, points=points, **taus)
    node = open_json(file, "Trust")
    low, high = (item.cost() for item in node.at("macs").each())
    loss, costs = node.at("orders").at("loss"), node.at("orders").at("macs")
    return Ranking(
        **{key: node.at(key).whole() for key in ("epochs", "images", "strata")},
        macs=(low, high),
        supernet=tuple(_tau(loss.at(key)) for key in ("tau", "low", "high")),
        costs=tuple(_tau(costs.at(key)) for key in ("tau", "low", "high")),
        within=tuple(_tau(loss.at(f"within{key}")) for key in ("", "_low", "_high")),
        points=tuple(_point(item, scale) for item in node.at("points").each()),
    )


def explain_ranking(ranking: Ranking) -> str:
    """What the scatter shows, in words."""
    drawn = (
        f"{len(ranking.points)} sub-networks drawn at random, each trained alone for {ranking.epochs} "
        f"epoch{'s' if ranking.epochs > 1 else ''}"
    )
    if ranking.images is None:
        return f"{drawn}. The measurement is not finished: Kendall's tau is told when it is (autoslim trust)."
    return (
        f"{drawn} and judged on {ranking.images} search images. Kendall's tau: the supernet's loss "
        f"{_say(ranking.supernet)}; MACs alone {_say(ranking.costs)}; the supernet's loss among networks of about the "
        f"same cost {_say(ranking.within)}. In brackets: 95% of the bootstrap. Neither axis starts at 0."
    )


def _point(node: Node, scale: Metric) -> Point:
    names = {"supernet": "supernet_accuracy", "alone": "alone_accuracy"}
    shares = {key: node.at(name).worth(scale) for key, name in names.items()}
    return Point(stratum=node.at("stratum").whole(), macs=node.at("macs").cost(), **shares)


def _tau(node: Node) -> float | None:
    return None if node.value is None else node.number(-1.000001, 1.000001, "a number from -1 to 1, or null")


def _say(tau: Sequence[float | None]) -> str:
    middle, low, high = ("none" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in tau)
    return f"{middle} ({low} to {high})"
