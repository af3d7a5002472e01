"""From the rows of all seeds to the table: means, spreads, and paired differences with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoslim.budget import Budget

_CLOSE = 0.01  # how far below its budget a network may be, as a share of it
_COSTS = ("macs", "params", "memory", "latency")
KEPT = " (kept weights)"  # what the rows of networks are called that were trained on from weights they had


def summarise(taken: Sequence[Mapping[str, Any]], **told: Any) -> dict[str, Any]:
    """The content of `compare.json`.

    Args:
        taken: One per method, budget and seed: method, budget, seed, accuracy, gap, costs, image_macs, seconds, widths.
        told: What else the file says: the work, the recipe, the methods' settings.

    Returns:
        Under "rows" one per method and budget: accuracies, one per seed, their mean and standard deviation (of a
        sample; None for one seed); costs and `search_image_macs`, `search_seconds` as means over the seeds; `gap`, the
        farthest that a network is from its budget, as a share of it; `to_uniform` and `to_autoslim`, the row's accuracy
        less theirs (`measure_difference`), None for themselves and where no seed has both. A row of networks trained on
        from kept weights is held against those of that kind: AutoSlim's, and slimmable's, whose widths are uniform. The
        search of a method finds all budgets, so its rows tell the same search cost; `times_autoslim` is that over
        AutoSlim's. Under "uneven" the rows that are further than 1% from their budget, and of joint budgets the limited
        costs in which networks differ by more than 1%: they can't be compared with the others.
    """
    rows: list[dict[str, Any]] = []
    for method, budget in dict.fromkeys((each["method"], each["budget"]) for each in taken):
        its = [each for each in taken if (each["method"], each["budget"]) == (method, budget)]
        kept = method.endswith(KEPT)
        rows.append({
            "method": method, "budget": budget, "seeds": [each["seed"] for each in its],
            **{cost: float(np.mean([each[cost] for each in its])) for cost in _COSTS},
            "gap": max((each["gap"] for each in its), key=abs), **_spread([each["accuracy"] for each in its]),
            "search_image_macs": float(np.mean([each["image_macs"] for each in its])),
            "search_seconds": float(np.mean([each["seconds"] for each in its])),
            "times_autoslim": _times(taken, method, budget),
            "to_uniform": _difference(taken, method, budget, f"slimmable{KEPT}" if kept else "uniform"),
            "to_autoslim": _difference(taken, method, budget, f"autoslim{KEPT if kept else ''}"),
            "widths": [each["widths"] for each in its],
        })  # fmt: skip
    uneven = [f"{row['method']}, {row['budget']}: {row['gap']:+.1%}" for row in rows if abs(row["gap"]) > _CLOSE]
    for budget in dict.fromkeys(each["budget"] for each in taken):
        uneven += _differing_costs([each for each in taken if each["budget"] == budget], budget)
    return {"_type": "Compared", "_version": 1, **told, "rows": rows, "uneven": uneven}


def _differing_costs(taken: Sequence[Mapping[str, Any]], budget: str) -> list[str]:
    """Of a joint budget the limited costs that differ by more than 1%: a gap tells of the tightest limit alone."""
    told: list[str] = []
    for metric in [limit.metric for limit in Budget.parse(budget).limits] if "," in budget else []:
        least, most = (pick(taken, key=lambda each: each[metric]) for pick in (min, max))
        if (share := 1 - least[metric] / most[metric]) > _CLOSE:
            told.append(f"{budget}: {metric} of {least['method']} is {share:.1%} below that of {most['method']}")
    return told


def measure_difference(paired: Sequence[float]) -> dict[str, Any]:
    """The mean of paired differences and its 95% interval by Student's t.

    There is no interval from a single pair, nor from differences that are all the same: a few hundred test images give
    few different accuracies, and two seeds that happen to agree would make an interval of no width.

    >>> measure_difference([0.01, 0.02, 0.03])["mean"]
    0.02
    """
    mean, low, high = float(np.mean(paired)), None, None
    if len({round(each, 9) for each in paired}) > 1:
        from scipy import stats  # a second to import

        half = float(stats.t.ppf(0.975, len(paired) - 1)) * float(np.std(paired, ddof=1)) / len(paired) ** 0.5
        low, high = mean - half, mean + half
    return {"differences": list(paired), "mean": mean, "low": low, "high": high}


def _spread(accuracies: Sequence[float]) -> dict[str, Any]:
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
    return {"accuracies": list(accuracies), "accuracy_mean": float(np.mean(accuracies)), "accuracy_std": std}


def _by_seed(taken: Sequence[Mapping[str, Any]], method: str, budget: str, field: str) -> dict[int, float]:
    return {each["seed"]: each[field] for each in taken if (each["method"], each["budget"]) == (method, budget)}


def _difference(taken: Sequence[Mapping[str, Any]], method: str, budget: str, reference: str) -> dict[str, Any] | None:
    """A row's accuracies less those of another method, seed by seed."""
    own, other = (_by_seed(taken, name, budget, "accuracy") for name in (method, reference))
    paired = [own[seed] - other[seed] for seed in own if seed in other]
    return measure_difference(paired) if paired and method != reference else None


def _times(taken: Sequence[Mapping[str, Any]], method: str, budget: str) -> float | None:
    """What its search costs, as a multiple of AutoSlim's on the same seeds."""
    own, other = (_by_seed(taken, name, budget, "image_macs") for name in (method, "autoslim"))
    both = [seed for seed in own if seed in other]
    return sum(own[seed] for seed in both) / sum(other[seed] for seed in both) if both else None
