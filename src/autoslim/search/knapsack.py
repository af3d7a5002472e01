"""Knapsack: each group's sensitivity measured once, then the best widths for any budget by integer programming."""

import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from autoslim.budget import Budget
from autoslim.errors import BudgetError
from autoslim.search._base import METHODS, Cost, Found, Scorer, Space, costs_of
from autoslim.search._path import Point, current_limits, make_rank, options
from autoslim.search._pool import WholeSearch, check_settings, draw_places, fit, harm_of, make_holds
from autoslim.widths import Widths

_STARTS = 4  # one start ends in the optimum for 35 of 40 made-up networks of products, four for 39, eight for 39
_SCALE = 1000.0  # of rises and limits: the solver's tolerances are absolute, 1e-6


@dataclass(frozen=True, kw_only=True)
class Knapsack(WholeSearch):
    """Takes the loss to be a sum over groups, and finds the widths of the least predicted loss within each budget.

    1. Sensitivities: for each group and candidate, the rise in loss against the widest network when that group alone
       is narrowed. One evaluation each, once for all budgets; a rise that is not a number counts as more than all
       others together.
    2. One width per group and the least sum of rises within the budget is a multiple-choice knapsack, solved to its
       optimum as an integer program (HiGHS, by `scipy.optimize.milp`); a joint budget has one constraint per limit.
    3. MACs are products of two groups' widths and latency falls in stairs, so costs are no sums. They are linearised
       at a network that holds the budget: a candidate's price is what the cost changes by when its group alone goes
       there. The optimum is priced truly, repaired by greedy steps (narrowed where the rise per saving is least until
       it holds, then widened where the rise falls most while it does), and is the next network to linearise at, as
       long as the predicted loss falls. This is done from the uniform network and three random ones, and the best of
       the four ends is taken.

    What is exact: for costs that are sums over groups (a linear model of latency), the predicted loss is the least
    there is, to the solver's tolerance (1e-9 of a limit and of the largest rise). For other costs a better answer may
    exist. The prediction itself ignores how groups interact; the score that is told is the found network's own,
    measured.

    A search evaluates 1 + the number of candidates narrower than their groups, and one network per budget.

    The source of the model: Shen et al. 2022, "Structural pruning via latency-saliency knapsack" (HALP), with measured
    rises in place of estimated saliencies.

    >>> from autoslim.testing.search import make_problem
    >>> (found,), _ = make_problem(0).search(Knapsack(), "macs<=50%")
    >>> found.costs["macs"] <= 0.5 * make_problem(0).base["macs"]
    True
    """

    metric: Literal["loss", "accuracy"] = "loss"
    """What is measured on the search images: the rise in loss, which is finer grained, or in errors."""

    def __post_init__(self) -> None:
        check_settings(self)

    def find(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        base: Mapping[str, float],
    ) -> list[Found]:
        if not budgets:
            return []
        rises = measure_rises(space, scorer, self.metric)
        chosen = [_Problem(space, costs, budget, base, rises).solve() for budget in budgets]
        rows = zip(budgets, chosen, scorer.score_many(chosen), strict=True)
        return [Found(budget, widths, costs_of(costs, [widths])[0], score) for budget, widths, score in rows]


@contextmanager
def _silent() -> Generator[None, None, None]:
    """HiGHS now and then writes a line of its own to the process's standard output, past Python's."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


METHODS.register("knapsack", Knapsack)


def measure_rises(space: Space, scorer: Scorer, metric: str) -> dict[tuple[str, int], float]:
    """Per free group and candidate, the rise against the widest network with that group alone narrowed."""
    places = [(group, width) for group in space.free for width in space.candidates[group][:-1]]
    scores = scorer.score_many([space.widest, *(space.widest.replace({group: width}) for group, width in places)])
    harms = np.array([harm_of(score, metric) for score in scores])
    with np.errstate(invalid="ignore"):
        rises = harms[1:] - harms[0]
    known = np.isfinite(rises)
    rises[~known] = 2 * np.abs(rises[known]).sum() + 1
    whole = {(group, space.widest[group]): 0.0 for group in space.free}
    return whole | dict(zip(places, rises.tolist(), strict=True))


@dataclass(frozen=True)
class _Problem:
    """One budget to be answered."""

    space: Space
    costs: Mapping[str, Cost]
    budget: Budget
    base: Mapping[str, float]
    rises: Mapping[tuple[str, int], float]

    def solve(self) -> Widths:
        """The best that is reached from the uniform network and a few random ones."""
        rng = np.random.default_rng(0)
        starts = [fit(self.space, dict.fromkeys(self.space.free, 0.5), self.holds, rng)]
        starts += [fit(self.space, draw_places(self.space, rng), self.holds, rng) for _ in range(_STARTS - 1)]
        return min((self._climb(start) for start in dict.fromkeys(starts)), key=self.predict)

    def _climb(self, here: Widths) -> Widths:
        """From one network to the optimum of the costs linearised there, repaired, as long as it gets better."""
        while True:
            trial = self._widened(self._narrowed(self._optimum(here)))
            if self.predict(trial) >= self.predict(here):
                return here
            here = trial

    @cached_property
    def holds(self) -> Callable[[Widths], bool]:
        return make_holds(self.costs, self.budget, self.base)

    def predict(self, widths: Widths) -> float:
        """The rise in loss if groups do not interact."""
        return sum(self.rises[group, widths[group]] for group in self.space.free)

    def _optimum(self, here: Widths) -> Widths:
        """The least sum of rises with costs linearised at `here`."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # a second to import

        places = list(self.rises)
        if not places:
            return here
        now, *then = costs_of(self.costs, [here, *(here.replace({group: width}) for group, width in places)])
        most = {limit.metric: limit.absolute(self.base) for limit in self.budget.limits}
        prices = {name: np.array([_SCALE * (cost[name] - now[name]) / most[name] for cost in then]) for name in most}
        rises = np.array([self.rises[place] for place in places])
        one_each = np.array([[float(group == place[0]) for place in places] for group in self.space.free])
        with _silent():
            result = milp(
                _SCALE * rises / (np.abs(rises).max() or 1),
                integrality=np.ones(len(places)),
                bounds=Bounds(0, 1),
                constraints=[
                    LinearConstraint(one_each, 1, 1),
                    *(LinearConstraint(prices[name], -np.inf, _SCALE * (1 - now[name] / most[name])) for name in most),
                ],
                options={"mip_rel_gap": 0.0},
            )
        if result.x is None:
            raise BudgetError(
                f"Budget {self.budget.text!r}: the solver found nothing, though {here} held it ({result.message}); "
                "expected costs that are the same at every call. Measure once and keep the numbers, or search with "
                "another method."
            )
        return here.replace({group: width for (group, width), part in zip(places, result.x, strict=True) if part > 0.5})

    def _narrowed(self, widths: Widths) -> Widths:
        """Greedy steps, the least rise per saving first, until the budget holds."""
        while not self.holds(widths):
            here = Point(widths, costs_of(self.costs, [widths])[0])
            limits = current_limits([self.budget], self.base, here.costs)
            steps = options(self.space, self.costs, limits, self.base, here, 0.0)
            rank = make_rank(steps, "cost")
            rises = {step.group: self.predict(step.widths) - self.predict(widths) for step in steps}
            widths = min(steps, key=lambda step: rank(step, rises[step.group])).widths
        return widths

    def _widened(self, widths: Widths) -> Widths:
        """One group at a time goes up, where the predicted loss falls most, while the budget holds."""
        while True:
            falls = {
                (group, width): self.rises[group, widths[group]] - rise
                for (group, width), rise in self.rises.items()
                if width > widths[group] and rise < self.rises[group, widths[group]]
            }
            wider = (widths.replace(dict([place])) for place in sorted(falls, key=lambda place: -falls[place]))
            found = next((each for each in wider if self.holds(each)), None)
            if found is None:
                return widths
            widths = found
