"""From the rows of all seeds to the table: means, spreads, and paired differences to uniform with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

_CLOSE = 0.01  # how far below its budget a network may be, as a share of it
_REFERENCE = "uniform"
_COSTS = ("macs", "params", "memory")


def summarise(
    taken: Sequence[Mapping[str, Any]], *, model: str, data: str, methods: Mapping[str, str]
) -> dict[str, Any]:
    """The content of `compare.json`.

    Args:
        taken: One per method, budget and seed: method, budget, seed, accuracy, gap, costs, image_macs, seconds.
        model: The network.
        data: The images.
        methods: The settings of each method, in words.

    Returns:
        Under "rows" one per method and budget: accuracies, one per seed, their mean and standard deviation (of a
        sample; None for one seed); costs and `search_image_macs`, `search_seconds` as means over the seeds; `gap`, the
        farthest that a network is from its budget; `to_uniform`, the paired difference of each seed, its mean and its
        95% t interval, None where there is no uniform row or only one seed. Under "uneven" the rows that are further
        than 1% from their budget: they can't be compared with the others.
    """
    rows: list[dict[str, Any]] = []
    for method, budget in dict.fromkeys((each["method"], each["budget"]) for each in taken):
        its = [each for each in taken if (each["method"], each["budget"]) == (method, budget)]
        other = {e["seed"]: e["accuracy"] for e in taken if (e["method"], e["budget"]) == (_REFERENCE, budget)}
        accuracies = [each["accuracy"] for each in its]
        paired = [each["accuracy"] - other[each["seed"]] for each in its if each["seed"] in other]
        rows.append({
            "method": method, "budget": budget, **{cost: float(np.mean([e[cost] for e in its])) for cost in _COSTS},
            "gap": min(each["gap"] for each in its), "accuracies": accuracies,
            "accuracy_mean": float(np.mean(accuracies)),
            "accuracy_std": float(np.std(accuracies, ddof=1)) if len(its) > 1 else None,
            "seeds": [each["seed"] for each in its],
            "search_image_macs": float(np.mean([each["image_macs"] for each in its])),
            "search_seconds": float(np.mean([each["seconds"] for each in its])),
            "to_uniform": None if method == _REFERENCE or not paired else measure_difference(paired),
            "widths": [each["widths"] for each in its],
        })  # fmt: skip
    uneven = [f"{row['method']}, {row['budget']}: {row['gap']:+.1%}" for row in rows if abs(row["gap"]) > _CLOSE]
    return {"_type": "Compared", "_version": 1, "model": model, "data": data, "methods": dict(methods), "rows": rows,
            "uneven": uneven}  # fmt: skip


def measure_difference(paired: Sequence[float]) -> dict[str, Any]:
    """The mean of paired differences and its 95% interval by Student's t; no interval from a single pair.

    >>> measure_difference([0.01, 0.02, 0.03])["mean"]
    0.02
    """
    mean, low, high = float(np.mean(paired)), None, None
    if len(paired) > 1:
        half = float(stats.t.ppf(0.975, len(paired) - 1)) * float(np.std(paired, ddof=1)) / len(paired) ** 0.5
        low, high = mean - half, mean + half
    return {"differences": list(paired), "mean": mean, "low": low, "high": high}
