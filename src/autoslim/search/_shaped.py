"""What the heuristics share: target proportions between the groups, and the scale at which a network costs the budget.

A heuristic says how wide each group should be beside the others, its weight. At a scale s a group of weight w keeps
about s x w channels, no fewer than its narrowest candidate and no more than it has. So the cost grows with s alone.
"""

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from autoslim.budget import Budget
from autoslim.errors import BudgetError
from autoslim.search._base import Cost, Space, excess_in
from autoslim.search._pool import FixedSearch
from autoslim.widths import Widths

_HALVINGS = 60  # of the scale: finer than one atom of any group


@dataclass(frozen=True, kw_only=True)
class ShapedSearch(FixedSearch):
    """Gives all groups the proportions of one shape: for each budget the widest network of it that holds every limit.

    Widths are any allowed ones between a group's narrowest and widest candidate; the candidates between do not bind,
    but under a latency.
    """

    @abstractmethod
    def weights(self, space: Space) -> Mapping[str, float]:
        """How wide each free group should be beside the others, above 0; only the ratios count."""

    def match(self, space: Space, costs: Mapping[str, Cost], budget: Budget, base: Mapping[str, float]) -> Widths:
        weights, excess = self.weights(space), excess_in(costs, budget, base)
        if budget.measured:  # a runtime may be slow beside candidates
            space = replace(space, allowed=space.candidates)
        return fit_shape(space, weights, excess, tolerance=self.tolerance)


def fit_shape(
    space: Space, weights: Mapping[str, float], excess: Callable[[Widths], float], *, tolerance: float
) -> Widths:
    """The widest network with these proportions and no excess.

    Args:
        space: The groups.
        weights: Per free group, how wide it should be beside the others.
        excess: How far a network is above its tightest limit, as a share of it; at most 0 for one that holds.
        tolerance: How far below the limit is close enough. What is missing is filled with single steps, first where
            rounding has taken the most, and never above the limit.

    Raises:
        BudgetError: A weight is not a finite number above 0.
    """
    if odd := [group for group in space.free if not 0 < weights[group] < math.inf]:
        raise BudgetError(
            f"`{odd[0]}`: weight {weights[odd[0]]}; expected a finite number above 0. Give another shape."
        )

    def wanted(group: str, scale: float) -> float:
        candidates = space.candidates[group]
        return min(max(scale * weights[group], candidates[0]), candidates[-1])

    def at(scale: float) -> Widths:
        places = {group: bisect_right(space.allowed[group], wanted(group, scale)) - 1 for group in space.free}
        return space.widest.replace({group: space.allowed[group][place] for group, place in places.items()})

    if excess(space.widest) <= 0:
        return space.widest
    low, high = 0.0, max(space.widest[group] / weights[group] for group in space.free)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(at(middle)) <= 0 else (low, middle)
    widths = at(low)
    steps = {g: space.allowed[g][bisect_right(space.allowed[g], w)] for g, w in widths.items() if w < space.widest[g]}
    lost = {group: (wanted(group, high) - widths[group]) / (step - widths[group]) for group, step in steps.items()}
    for group in sorted((group for group in lost if lost[group] > 0), key=lambda group: -lost[group]):
        if excess(widths) >= -tolerance:
            break
        wider = widths.replace({group: steps[group]})
        widths = wider if excess(wider) <= 0 else widths
    return widths
