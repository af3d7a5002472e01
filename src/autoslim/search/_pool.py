"""What the methods without a path share: networks drawn within a budget, each scored once, the best of them told."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.search._base import Cost, Found, Score, Scorer, Space, Step, check_budgets, costs_of
from autoslim.widths import Widths

Holds = Callable[[Widths], bool]
_GRAIN = 1 / 1024  # of a shift: finer than a level of any group


def check_settings(config: object, *, counts: Sequence[str] = (), shares: Sequence[str] = ()) -> None:
    """Refuses settings that are out of range, with a ConfigError; `metric` and `seed` are checked where there are."""
    name = type(config).__name__
    metric, seed = getattr(config, "metric", "loss"), getattr(config, "seed", 0)
    if metric not in ("loss", "accuracy"):
        raise ConfigError(f"{name}: metric={metric!r}; expected 'loss' or 'accuracy'. Pass one of them.")
    if seed < 0:
        raise ConfigError(f"{name}: seed={seed}; expected 0 or more. Leave it out for the default.")
    for setting in counts:
        if (value := getattr(config, setting)) < 1:
            raise ConfigError(f"{name}: {setting}={value}; expected 1 or more. Leave it out for the default.")
    for setting in shares:
        if not 0 <= (value := getattr(config, setting)) <= 1:
            raise ConfigError(f"{name}: {setting}={value}; expected a share from 0 to 1. Leave it out for the default.")


@dataclass(frozen=True, kw_only=True)
class WholeSearch(ABC):
    """A search without a path: it asks for whole scores alone, and takes no steps on the way."""

    @abstractmethod
    def find(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        base: Mapping[str, float],
    ) -> list[Found]:
        """As `Method.search`, for budgets that the narrowest network holds."""

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
        """See `Method.search`. There are no steps on the way: `on_step` is not called, and `done` must be empty."""
        check_budgets(space, costs, budgets, base)
        if done:
            raise RunFolderError(
                f"The search so far holds {len(done)} steps, but {type(self).__name__} takes none; expected none. "
                "They belong to another method: delete `search.jsonl`, or go on with that method."
            )
        return self.find(space, costs, budgets, scorer, base)


@dataclass(frozen=True, kw_only=True)
class FixedSearch(WholeSearch):
    """A search that looks at no score: what it gives for a budget follows from the costs alone."""

    tolerance: float = 0.01
    """How far below its tightest limit a network may stay, as a share of it; 0 fills up as far as one atom allows."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ConfigError(
                f"{type(self).__name__}: tolerance={self.tolerance}; expected 0 or more, below 1. Pass for instance "
                "0.01."
            )

    @abstractmethod
    def match(self, space: Space, costs: Mapping[str, Cost], budget: Budget, base: Mapping[str, float]) -> Widths:
        """The widest network of its kind that holds a budget; if none does, one that does not."""

    def find(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        base: Mapping[str, float],
    ) -> list[Found]:
        chosen = [self.match(space, costs, budget, base) for budget in budgets]
        prices = costs_of(costs, chosen)
        for budget, price in zip(budgets, prices, strict=True):
            if not budget.holds(price, base):
                raise BudgetError(
                    f"Budget {budget.text!r}: no network of this shape holds it, though the narrowest sub-network "
                    "does; expected a cost that grows with every width. Search this budget with another method."
                )
        rows = zip(budgets, chosen, prices, scorer.score_many(chosen), strict=True)
        return [Found(*row) for row in rows]


def harm_of(score: Score, metric: str) -> float:
    """What shall be small: the loss, or the share of errors. What is not a number is the worst there is."""
    value = score.loss if metric == "loss" else 1 - score.accuracy
    return math.inf if math.isnan(value) else value


# Within a budget ------------------------------------------------------------------------------------------------------


def make_holds(costs: Mapping[str, Cost], budget: Budget, base: Mapping[str, float]) -> Holds:
    """Whether a sub-network holds every limit of `budget`."""
    limited = {limit.metric: costs[limit.metric] for limit in budget.limits}
    return lambda widths: budget.holds(costs_of(limited, [widths])[0], base)


def move(space: Space, widths: Widths, group: str, levels: int) -> Widths:
    """`group` up by some of its candidates, or down if negative; no further than its widest or narrowest."""
    candidates = space.candidates[group]
    place = candidates.index(widths[group]) + levels
    return widths.replace({group: candidates[min(max(place, 0), len(candidates) - 1)]})


def fit(space: Space, places: Mapping[str, float], holds: Holds, rng: np.random.Generator) -> Widths:
    """The widest sub-network of a given shape that holds, filled up.

    Args:
        space: The widths to choose from.
        places: Per free group, where it stands between its narrowest, 0, and its widest, 1. All are shifted alike, as
            far as the budget allows (bisected); who would leave 0 to 1 stays at the end.
        holds: Whether a sub-network is within the budget; the narrowest is.
        rng: For the order in which groups are filled up.
    """

    def shifted(shift: float) -> Widths:
        kept = {group: min(max(place + shift, 0.0), 1.0) for group, place in places.items()}
        levels = {group: int(place * (len(space.candidates[group]) - 1)) for group, place in kept.items()}
        return space.widest.replace({group: space.candidates[group][level] for group, level in levels.items()})

    low, high = -1.0, 1.0  # the narrowest and the widest, wherever the places are
    if holds(shifted(high)):
        return shifted(high)
    while high - low > _GRAIN:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(shifted(middle)) else (low, middle)
    return fill(space, shifted(low), holds, rng)


def draw_places(space: Space, rng: np.random.Generator) -> dict[str, float]:
    """A random shape for `fit`. How far the groups are apart is drawn, too: from the uniform network to anything.

    Widths drawn independently all look alike: about half of the groups are wide, whatever the draw.
    """
    apart = rng.uniform()
    return {group: 0.5 + apart * (rng.uniform() - 0.5) for group in space.free}


def narrow(space: Space, widths: Widths, holds: Holds, rng: np.random.Generator) -> Widths:
    """Random groups go down by one candidate each, until the budget holds."""
    while not holds(widths) and widths != space.narrowest:
        wide = [group for group in space.free if widths[group] > space.candidates[group][0]]
        widths = move(space, widths, wide[int(rng.integers(len(wide)))], -1)
    return widths


def fill(space: Space, widths: Widths, holds: Holds, rng: np.random.Generator) -> Widths:
    """Groups go up by one candidate each, in random order and round after round, while the budget holds."""
    waiting = list(space.free)
    while waiting:
        raised: list[str] = []
        for at in rng.permutation(len(waiting)):
            wider = move(space, widths, waiting[at], 1)
            if wider != widths and holds(wider):
                widths = wider
                raised.append(waiting[at])
        waiting = raised
    return widths


# Scored once ----------------------------------------------------------------------------------------------------------


@dataclass
class Pool:
    """All sub-networks that a search has scored, each once: every one of them answers every budget that it holds."""

    costs: Mapping[str, Cost]
    base: Mapping[str, float]
    scorer: Scorer
    metric: str
    known: dict[Widths, tuple[dict[str, float], Score]] = field(
        default_factory=dict[Widths, tuple[dict[str, float], Score]]
    )

    def score(self, widths: Sequence[Widths]) -> None:
        """Scores those that are new, in their order, in one call."""
        new = [each for each in dict.fromkeys(widths) if each not in self.known]
        if new:
            for each, score in zip(new, self.scorer.score_many(new), strict=True):
                self.known[each] = costs_of(self.costs, [each])[0], score

    def best(self, budget: Budget, count: int) -> list[Widths]:
        """The `count` best within the budget, the best first; of equals, the one that was scored first."""
        within = [each for each, (costs, _) in self.known.items() if budget.holds(costs, self.base)]
        if not within:
            raise BudgetError(
                f"Budget {budget.text!r}: the narrowest sub-network held it at first, and none that was drawn for it "
                "does; expected costs that are the same at every call. Measure once and keep the numbers."
            )
        return sorted(within, key=lambda each: harm_of(self.known[each][1], self.metric))[:count]

    def found(self, budget: Budget) -> Found:
        """The best within the budget."""
        (widths,) = self.best(budget, 1)
        return Found(budget, widths, *self.known[widths])
