"""Greedy slimming: from the widest network, narrow one group at a time where it hurts least, until the budgets hold.

The paper's search (AutoSlim, Yu & Huang 2019, section 3.3). One nested path of sub-networks answers all budgets: each
gets the first point of the path at which it holds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.search._base import METHODS, Cost, Found, Score, Scorer, Space, Step, check_budgets, costs_of
from autoslim.widths import Widths

_SAME = 1e-6  # relative: costs that differ by more were not computed from the same network
_UNSCORED = Score(math.nan, math.nan)


@dataclass(frozen=True)
class _Point:
    """A sub-network of the path."""

    widths: Widths
    costs: Mapping[str, float]
    score: Score


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Narrows, step by step, the one group whose next lower candidate costs least.

    Only steps that bring the current budget closer are considered: of the budgets not yet met, it is the one with the
    smallest overshoot (excess over the limit, as a share of the limit, summed over its limits). A step's saving is
    what it takes off each violated limit, as a share of the excess there. Should no single step save anything (a
    latency that falls in stairs), all are considered and the best sub-network is taken, as in the paper; so the path
    always goes on to the narrowest.

    Of steps that cost the same, the one that saves more is taken, then the earlier group. As a loss that does not rise
    counts as no cost, noise below zero is never divided by a small saving: the larger saving wins there. A score
    that is not a finite number is the worst.
    """

    normalize: Literal["cost", "none"] = "cost"
    """What a step's harm is weighed by: "cost", per unit of resource it saves; "none", the paper's own rule."""

    metric: Literal["loss", "accuracy"] = "loss"
    """What must suffer least on the search images: the loss, which is finer grained, or the accuracy."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("normalize", self.normalize, ("cost", "none")),
            ("metric", self.metric, ("loss", "accuracy")),
        ):
            if value not in known:
                raise ConfigError(f"Greedy: {name}={value!r}; expected {known[0]!r} or {known[1]!r}. Pass one of them.")

    def search(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        *,
        base: Mapping[str, float],
        done: Sequence[Step] = (),
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Found]:
        """See `Method.search`. The steps of `done` are checked and taken over without scoring anything again."""
        check_budgets(space, costs, budgets, base)
        whole = costs_of(costs, [space.widest])[0]
        scored = not done or any(budget.holds(whole, base) for budget in budgets)
        here = _Point(space.widest, whole, scorer.score(space.widest) if scored else _UNSCORED)
        found = _settle({}, budgets, base, here)
        for number, step in enumerate(done, start=1):
            here = _replay(space, costs, here, number, step)
            found = _settle(found, budgets, base, here)
        number = len(done)
        while len(found) < len(budgets):
            number += 1
            limits = _current_limits([b for at, b in enumerate(budgets) if at not in found], base, here)
            group, after = self._narrow(space, costs, limits, scorer, here)
            step = Step(
                step=number,
                group=group,
                before=here.widths[group],
                after=after.widths[group],
                loss=after.score.loss,
                accuracy=after.score.accuracy,
                costs=after.costs,
                widths=after.widths,
            )
            if on_step is not None:
                on_step(step)
            here, found = after, _settle(found, budgets, base, after)
        return [found[at] for at in range(len(budgets))]

    def _narrow(
        self, space: Space, costs: Mapping[str, Cost], limits: Mapping[str, float], scorer: Scorer, here: _Point
    ) -> tuple[str, _Point]:
        """The group to narrow next, and the sub-network this gives."""
        groups = [group for group in space.free if here.widths[group] > space.candidates[group][0]]
        if not groups:
            raise BudgetError(
                f"The narrowest sub-network held {limits} at first, and at the end costs {dict(here.costs)}; expected "
                "costs that are the same at every call. Measure once and keep the numbers."
            )
        trials = [here.widths.replace({group: _next_lower(space, here.widths, group)}) for group in groups]
        prices = costs_of(costs, trials)
        savings = [_saving(limits, here.costs, price) for price in prices]
        helping = [at for at, saving in enumerate(savings) if saving > 0]
        tried = helping or list(range(len(trials)))
        scores = dict(zip(tried, scorer.score_many([trials[at] for at in tried]), strict=True))
        weighed = self.normalize == "cost" and bool(helping)

        def rank(at: int) -> tuple[float, float, int]:
            harm = self._harm(scores[at], here.score) / savings[at] if weighed else self._badness(scores[at])
            return harm, -savings[at], at

        best = min(tried, key=rank)
        return groups[best], _Point(trials[best], prices[best], scores[best])

    def _badness(self, score: Score) -> float:
        value = score.loss if self.metric == "loss" else -score.accuracy
        return value if math.isfinite(value) else math.inf

    def _harm(self, score: Score, before: Score) -> float:
        """The rise in loss, or the fall in accuracy, not below 0.

        As a share of the network's loss before the step it would be the same choice: that is common to all steps.
        """
        rise = self._badness(score) - self._badness(before)
        return math.inf if math.isnan(rise) else max(rise, 0.0)


METHODS.register("greedy", Greedy)


def _next_lower(space: Space, widths: Widths, group: str) -> int:
    candidates = space.candidates[group]
    return candidates[candidates.index(widths[group]) - 1]


def _settle(
    found: Mapping[int, Found], budgets: Sequence[Budget], base: Mapping[str, float], here: _Point
) -> dict[int, Found]:
    """`found`, by the budget's position, and the budgets that hold here for the first time."""
    new = {
        at: Found(budget, here.widths, here.costs, here.score)
        for at, budget in enumerate(budgets)
        if at not in found and budget.holds(here.costs, base)
    }
    return {**found, **new}


def _current_limits(unmet: Sequence[Budget], base: Mapping[str, float], here: _Point) -> dict[str, float]:
    """The violated limits of the loosest unmet budget: {metric: most}; of two as loose, the first."""

    def violated(budget: Budget) -> dict[str, float]:
        limits = {limit.metric: limit.absolute(base) for limit in budget.limits}
        return {metric: most for metric, most in limits.items() if here.costs[metric] > most}

    def overshoot(limits: Mapping[str, float]) -> float:
        return sum(here.costs[metric] / most - 1 for metric, most in limits.items())

    return min((violated(budget) for budget in unmet), key=overshoot)


def _saving(limits: Mapping[str, float], before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """What a step takes off the violated limits, each as a share of its excess; one that grows counts negative."""
    return sum((before[metric] - after[metric]) / (before[metric] - most) for metric, most in limits.items())


def _replay(space: Space, costs: Mapping[str, Cost], here: _Point, number: int, step: Step) -> _Point:
    """The point after a step that was taken before; RunFolderError unless this search could have taken it."""

    def refuse(what: str) -> RunFolderError:
        return RunFolderError(
            f"Step {number} of the search so far {what}. It belongs to another search: another network, candidates "
            "or budgets. Delete `search.jsonl` to search anew, or go on in the run folder it came from."
        )

    if step.step != number:
        raise refuse(f"is numbered {step.step}, expected {number}")
    if step.group not in space.free or here.widths[step.group] == space.candidates[step.group][0]:
        raise refuse(f"narrows {step.group!r}, expected a group that can still lose channels")
    expected = here.widths[step.group], _next_lower(space, here.widths, step.group)
    if (step.before, step.after) != expected:
        raise refuse(
            f"takes {step.group!r} from {step.before} to {step.after}, expected {expected[0]} to {expected[1]}"
        )
    if step.widths != here.widths.replace({step.group: step.after}):
        raise refuse("holds widths that differ in another group than the one it narrows")
    told = costs_of(costs, [step.widths])[0]
    if set(told) != set(step.costs):
        raise refuse(f"gives the costs {sorted(step.costs)}, expected {sorted(told)}")
    for metric, cost in told.items():
        if not math.isclose(cost, step.costs[metric], rel_tol=_SAME):
            raise refuse(f"costs {step.costs[metric]:g} {metric}, expected {cost:g}")
    return _Point(step.widths, step.costs, Score(step.loss, step.accuracy))
