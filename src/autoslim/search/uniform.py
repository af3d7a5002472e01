"""The uniform network: one ratio for all groups, at an exact cost. What every other method has to beat."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoslim.budget import Budget
from autoslim.errors import BudgetError
from autoslim.search._base import METHODS, Cost, Space, excess_of
from autoslim.search._pool import FixedSearch
from autoslim.widths import Widths

_Excess = Callable[[Sequence[Widths]], NDArray[np.float64]]  # N widths -> [N], relative; 0 on target, above it if over
_EPSILON = 1e-9  # k / n * n may fall below k; two ratios differ by far more


@dataclass(frozen=True, kw_only=True)
class Uniform(FixedSearch):
    """Gives all groups the same ratio: for each budget the largest that holds every limit, the tightest one closest.

    Under a limit of latency widths are candidates (`hold_uniform`); else any that are allowed.
    """

    def match(self, space: Space, costs: Mapping[str, Cost], budget: Budget, base: Mapping[str, float]) -> Widths:
        return hold_uniform(space, costs, budget, base=base, tolerance=self.tolerance)[1]


METHODS.register("uniform", Uniform)


def hold_uniform(
    space: Space,
    costs: Mapping[str, Cost],
    budget: Budget,
    *,
    base: Mapping[str, float],
    tolerance: float = 0.01,
) -> tuple[float, Widths]:
    """The widest uniform network that holds a budget.

    Args:
        space: The groups; frozen ones stay whole. Where a latency is limited widths are candidates, as one would take
            by hand: beside them a latency jumps. Else any that are allowed.
        costs: Every metric of the budget.
        budget: What it may cost.
        base: The base network's cost per metric, of which relative limits are a share.
        tolerance: How far below the tightest limit it may stay, as a share of it.

    Returns:
        The ratio and the widths. The ratio is the largest at which all groups, rounded down to what is allowed, hold
        the budget. From there those with the largest remainders are rounded up, where the budget still holds, until
        the tightest limit is within `tolerance`. If none holds it, the narrowest; to tell is the caller's.
    """

    def excess(widths: Sequence[Widths]) -> NDArray[np.float64]:
        return excess_of(costs, budget, base, widths)

    return _fit(space, space.candidates if budget.measured else space.allowed, excess, tolerance, over=False)


def match_uniform(space: Space, cost: Cost, target: float, *, tolerance: float = 0.01) -> tuple[float, Widths]:
    """The uniform network of a given cost, to compare another sub-network of that cost with.

    For costs that are counted. A latency jumps beside the candidates: `hold_uniform`.

    Args:
        space: The groups; frozen ones stay whole. Widths are any that are allowed: the candidates do not bind.
        cost: What is to be matched; it should grow with the widths.
        target: The cost to meet, above 0, in the cost's own unit.
        tolerance: A gap to the target, as a share of it, that is small enough.

    Returns:
        The ratio and the widths. The ratio is the largest at which all groups, rounded down, cost no more than
        `target`. From there the groups with the largest remainders get the next width, until the cost is within
        `tolerance` on either side; if widths are too coarse for that, the closest seen. To tell the gap is the
        caller's.

    Raises:
        BudgetError: The target is not a number above 0.
    """
    if not target > 0:
        raise BudgetError(f"match_uniform: target {target}; expected a cost above 0. Pass that of the other network.")
    return _fit(space, space.allowed, lambda widths: (cost.many(widths) - target) / target, tolerance, over=True)


def _fit(
    space: Space, allowed: Mapping[str, Sequence[int]], excess: _Excess, tolerance: float, *, over: bool
) -> tuple[float, Widths]:
    """The largest ratio without excess, and its widths filled up; only if `over` may they end above the target."""
    sizes = {group: space.widest[group] for group in space.free}

    def gap_at(kept: Mapping[str, int]) -> float:
        return float(excess([space.widest.replace(kept)])[0])

    def floor(ratio: float) -> dict[str, int]:
        fitting = {group: bisect_right(allowed[group], ratio * size + _EPSILON) for group, size in sizes.items()}
        return {group: allowed[group][max(count - 1, 0)] for group, count in fitting.items()}

    if not sizes or gap_at(sizes) <= 0:
        return 1.0, space.widest
    ratios = np.unique(np.concatenate([np.array(allowed[group]) / size for group, size in sizes.items()])).tolist()
    low, high = 0, len(ratios) - 1  # the widths change at these ratios only, so bisecting them is exact
    gap = gap_at(floor(ratios[low]))
    if gap > 0:
        return ratios[low], space.widest.replace(floor(ratios[low]))
    while high - low > 1:
        middle = (low + high) // 2
        tried = gap_at(floor(ratios[middle]))
        low, high, gap = (middle, high, tried) if tried <= 0 else (low, middle, gap)
    kept = floor(ratios[low])
    wider = {g: allowed[g][bisect_right(allowed[g], kept[g])] for g, size in sizes.items() if kept[g] < size}
    parts = {group: (ratios[high] * sizes[group] - kept[group]) / (wider[group] - kept[group]) for group in wider}
    order = sorted((group for group in wider if parts[group] > 0), key=lambda group: -parts[group])
    steps = {group: wider[group] for group in order}
    return ratios[low], space.widest.replace(_fill(kept, gap, steps, gap_at, tolerance, over=over))


def _fill(
    kept: dict[str, int],
    gap: float,
    steps: Mapping[str, int],
    gap_at: Callable[[Mapping[str, int]], float],
    tolerance: float,
    *,
    over: bool,
) -> dict[str, int]:
    """One group after another is widened as `steps` say, where it stays below the target; the closest is given."""
    best, closest = kept, gap
    for group, width in steps.items():
        if abs(closest) <= tolerance:
            break
        trial = {**kept, group: width}
        gap = gap_at(trial)
        if abs(gap) < abs(closest) and (over or gap <= 0):
            best, closest = trial, gap
        if gap <= 0:
            kept = trial
    return best
