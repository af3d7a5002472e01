"""The nested path of sub-networks, from the widest down: what one step may be, and which budgets a point answers.

One path answers all budgets: each gets the first point of it at which it holds (AutoSlim, section 3.3).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError, DataError, RunFolderError
from autoslim.search._base import Cost, Found, Sample, Score, Scorer, Space, Step, check_budgets, costs_of
from autoslim.widths import Widths

_SAME = 1e-6  # relative: costs that differ by more were not computed from the same network


@dataclass(frozen=True)
class Point:
    """A sub-network of the path; its sample is known where the search has come by in this process."""

    widths: Widths
    costs: Mapping[str, float]
    score: Score | None = None
    sample: Sample | None = None


@dataclass(frozen=True)
class Option:
    """A step that may be taken: `group` down to `after` channels.

    Attributes:
        saving: What it takes off the limits that are violated, each as a share of its excess, summed; above 0, unless
            no step takes off anything.
    """

    group: str
    after: int
    widths: Widths
    costs: Mapping[str, float]
    saving: float


@dataclass(frozen=True)
class Choice:
    """The option that is taken, and what all that were tried are worth: (width, rise, images) per group."""

    option: Option
    sample: Sample
    tried: Mapping[str, tuple[int, float, int]]


class Chooser(Protocol):
    """Decides between options."""

    def choose(self, here: Point, options: Sequence[Option], number: int) -> Choice:
        """The option of step `number` from `here`, whose sample is known."""
        ...

    def remember(self, step: Step) -> None:
        """Takes note of a step that was taken, in this process or before it."""
        ...


@dataclass(frozen=True, kw_only=True)
class PathSearch(ABC):
    """A search down one path; who inherits says how each step is chosen."""

    normalize: Literal["cost", "none"] = "cost"
    """What a step's harm is weighed by: "cost", per unit of resource it saves; "none", the paper's own rule."""

    metric: Literal["loss", "accuracy"] = "loss"
    """What must suffer least on the search images: the loss, which is finer grained, or the accuracy."""

    min_saving: float = 0.002
    """The least that a step should save, as a share of the base cost: a group goes down to where it does."""

    def __post_init__(self) -> None:
        for setting, known in (("normalize", ("cost", "none")), ("metric", ("loss", "accuracy"))):
            value = getattr(self, setting)
            if value not in known:
                raise ConfigError(
                    f"{type(self).__name__}: {setting}={value!r}; expected {known[0]!r} or {known[1]!r}. Pass one of "
                    "them."
                )
        self.check_shares("min_saving")

    def check_shares(self, *settings: str) -> None:
        """Refuses settings that are no shares from 0 to 1, with a ConfigError."""
        for setting in settings:
            value = getattr(self, setting)
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"{type(self).__name__}: {setting}={value}; expected a share from 0 to 1. Leave it out for the "
                    "default."
                )

    @abstractmethod
    def chooser(self, scorer: Scorer) -> Chooser:
        """Decides the steps of one search."""

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
        """See `Method.search`. The steps of `done` are checked and taken over; only where the path stands is scored."""
        chooser, least = self.chooser(scorer), self.min_saving
        return walk(chooser, space, costs, budgets, scorer, base=base, done=done, on_step=on_step, least=least)


def walk(
    chooser: Chooser,
    space: Space,
    costs: Mapping[str, Cost],
    budgets: Sequence[Budget],
    scorer: Scorer,
    *,
    base: Mapping[str, float],
    done: Sequence[Step],
    on_step: Callable[[Step], None] | None,
    least: float,
) -> list[Found]:
    """Goes down the path until every budget holds; see `Method.search`.

    Args:
        least: The smallest saving worth a step, as a share of the base cost.
    """
    check_budgets(space, costs, budgets, base)
    here = Point(space.widest, costs_of(costs, [space.widest])[0])
    if not done or any(budget.holds(here.costs, base) for budget in budgets):
        here = _sampled(here, scorer)
    found = _settle({}, budgets, base, here)
    for number, step in enumerate(done, start=1):
        here = _replay(space, costs, here, number, step)
        found = _settle(found, budgets, base, here)
        chooser.remember(step)
    number = len(done)
    while len(found) < len(budgets):
        number += 1
        here = _sampled(here, scorer)
        _check_finite(here)
        limits = current_limits([budget for at, budget in enumerate(budgets) if at not in found], base, here.costs)
        choice = chooser.choose(here, options(space, costs, limits, base, here, least), number)
        option, score = choice.option, choice.sample.score
        step = Step(
            step=number,
            group=option.group,
            before=here.widths[option.group],
            after=option.after,
            loss=score.loss,
            accuracy=score.accuracy,
            costs=option.costs,
            widths=option.widths,
            tried=choice.tried,
        )
        if on_step is not None:
            on_step(step)
        chooser.remember(step)
        here = Point(option.widths, option.costs, score, choice.sample)
        found = _settle(found, budgets, base, here)
    return [found[at] for at in range(len(budgets))]


def options(
    space: Space,
    costs: Mapping[str, Cost],
    limits: Mapping[str, float],
    base: Mapping[str, float],
    here: Point,
    least: float,
) -> list[Option]:
    """The steps that may be taken: one per group that can still lose channels and helps.

    A group goes down to its next candidate that saves at least `least` of a violated metric's base cost (latency falls
    in stairs); to the one that saves most, where none saves so much. Should no group save anything, all go down by one
    candidate.
    """
    lower = [
        (group, width)
        for group in space.free
        for width in reversed(space.candidates[group])
        if width < here.widths[group]
    ]
    if not lower:
        raise BudgetError(
            f"The narrowest sub-network held {dict(limits)} at first, and at the end costs {dict(here.costs)}; "
            "expected costs that are the same at every call. Measure once and keep the numbers."
        )
    trials = [here.widths.replace({group: width}) for group, width in lower]
    made: dict[str, Option] = {}
    next_lower: dict[str, Option] = {}
    settled: set[str] = set()
    for (group, width), widths, price in zip(lower, trials, costs_of(costs, trials), strict=True):
        if group in settled:
            continue
        option = Option(group, width, widths, price, _saving(limits, here.costs, price))
        next_lower.setdefault(group, option)
        enough = any(
            here.costs[metric] - price[metric] >= least * base.get(metric, here.costs[metric]) for metric in limits
        )
        if enough and option.saving > 0:
            settled.add(group)
        if group in settled or group not in made or option.saving >= made[group].saving:
            made[group] = option
    helping = [option for option in made.values() if option.saving > 0]
    return helping or list(next_lower.values())


def make_rank(options: Sequence[Option], normalize: str) -> Callable[[Option, float], tuple[float, float, int]]:
    """The order in which options are taken, the least first, given each one's rise in loss.

    With "cost" what counts is the rise per saving, not below 0; with "none", or where no step saves anything, the rise
    itself. Of equals the one that saves more is first, then the earlier group.
    """
    weighed = is_weighed(options, normalize)
    places = {option.group: at for at, option in enumerate(options)}

    def rank(option: Option, rise: float) -> tuple[float, float, int]:
        harm = max(rise, 0.0) / option.saving if weighed else rise
        return harm, -option.saving, places[option.group]

    return rank


def is_weighed(options: Sequence[Option], normalize: str) -> bool:
    """Whether the options' rises are weighed by what they save."""
    return normalize == "cost" and all(option.saving > 0 for option in options)


def rise_of(here: Point, sample: Sample, metric: str) -> float:
    """The rise in loss, or in errors, from the path's point to a sub-network, on the images that this one has seen."""
    assert here.sample is not None  # `walk` sees to it
    with np.errstate(invalid="ignore"):
        rise = float((values_of(sample, metric) - values_of(here.sample, metric)[: len(sample)]).mean())
    return math.inf if math.isnan(rise) else rise


def values_of(sample: Sample, metric: str) -> NDArray[np.float64]:
    """Per image what shall be small: the loss, or the error. What is not a number is the worst there is."""
    values = sample.loss if metric == "loss" else 1 - sample.accuracy
    return np.where(np.isnan(values), np.inf, values)


def current_limits(unmet: Sequence[Budget], base: Mapping[str, float], costs: Mapping[str, float]) -> dict[str, float]:
    """The violated limits of the loosest unmet budget: {metric: most}; of two as loose, the first."""

    def violated(budget: Budget) -> dict[str, float]:
        limits = {limit.metric: limit.absolute(base) for limit in budget.limits}
        return {metric: most for metric, most in limits.items() if costs[metric] > most}

    def overshoot(limits: Mapping[str, float]) -> float:
        return sum(costs[metric] / most - 1 for metric, most in limits.items())

    return min((violated(budget) for budget in unmet), key=overshoot)


def _saving(limits: Mapping[str, float], before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """What a step takes off the violated limits, each as a share of its excess; one that grows counts negative."""
    return sum((before[metric] - after[metric]) / (before[metric] - most) for metric, most in limits.items())


def _sampled(here: Point, scorer: Scorer) -> Point:
    """The point with its sample, which a path that is taken up again has not: the score stays as it was told."""
    if here.sample is not None:
        return here
    sample = scorer.samples([here.widths])[0]
    return Point(here.widths, here.costs, here.score or sample.score, sample)


def _check_finite(here: Point) -> None:
    """Raises DataError where a loss is no number: no step from there could be told from another."""
    assert here.sample is not None  # `walk` sees to it
    odd = np.flatnonzero(~np.isfinite(here.sample.loss)).tolist()
    if odd:
        told = ", ".join(map(str, odd[:10])) + ", ..." * (len(odd) > 10)
        raise DataError(
            f"The search stands at {here.widths}, whose loss is not finite on {len(odd)} of {len(here.sample)} search "
            f"images (counted from 0: {told}); expected finite numbers, or steps can't be compared. Look at these "
            "images and their targets; if all of them are odd, train the supernet anew with a lower learning rate."
        )


def _settle(
    found: Mapping[int, Found], budgets: Sequence[Budget], base: Mapping[str, float], here: Point
) -> dict[int, Found]:
    """`found`, by the budget's position, and the budgets that hold here for the first time."""
    new = {
        at: Found(budget, here.widths, here.costs, here.score)
        for at, budget in enumerate(budgets)
        if at not in found and here.score is not None and budget.holds(here.costs, base)
    }
    return {**found, **new}


def _replay(space: Space, costs: Mapping[str, Cost], here: Point, number: int, step: Step) -> Point:
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
    before = here.widths[step.group]
    lower = [width for width in space.candidates[step.group] if width < before]
    if step.before != before or step.after not in lower:
        raise refuse(f"takes {step.group!r} from {step.before} to {step.after}, expected {before} to one of {lower}")
    if step.widths != here.widths.replace({step.group: step.after}):
        raise refuse("holds widths that differ in another group than the one it narrows")
    told = costs_of(costs, [step.widths])[0]
    if set(told) != set(step.costs):
        raise refuse(f"gives the costs {sorted(step.costs)}, expected {sorted(told)}")
    for metric, cost in told.items():
        if not math.isclose(cost, step.costs[metric], rel_tol=_SAME):
            raise refuse(f"costs {step.costs[metric]:g} {metric}, expected {cost:g}")
    return Point(step.widths, step.costs, Score(step.loss, step.accuracy))
