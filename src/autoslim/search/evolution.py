"""Evolution: the best sub-networks under a budget are crossed and mutated, generation after generation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoslim.budget import Budget
from autoslim.search._base import METHODS, Cost, Found, Scorer, Space
from autoslim.search._pool import (
    Holds,
    Pool,
    WholeSearch,
    check_settings,
    draw_places,
    fill,
    fit,
    make_holds,
    move,
    narrow,
)
from autoslim.widths import Widths

_MOVES = (-2, -1, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Evolution(WholeSearch):
    """Keeps the best of all sub-networks scored so far under each budget, and breeds from them.

    The first generation is the uniform network (on the candidates) and random ones, as `Random` draws them. Then, per
    generation and budget, two of the `parents` best are drawn for each child. It takes each group's width from the one
    or the other (`crossover`), moves some groups by one or two candidates up or down (`mutation`), and is brought back
    within the budget: random groups are narrowed until it holds, and random groups widened while it does. So every
    child uses its budget up. Nobody dies of age, and whoever holds several budgets is among the parents for each.

    A search evaluates at most `population` x (1 + `generations`) networks per budget; a child that was scored before
    is not scored again.

    The source is the search of single-path one-shot supernets (Guo et al. 2020, "Single path one-shot neural
    architecture search with uniform sampling", algorithm 1: the best k as parents, crossover and mutation under the
    budget). Real et al. 2019 ("Regularized evolution") is the same with mutation and ageing alone; ageing is for
    scores that differ from one evaluation to the next, and ours do not.

    >>> from autoslim.testing.search import make_problem
    >>> (found,), _ = make_problem(0).search(Evolution(generations=2), "macs<=50%")
    >>> found.costs["macs"] <= 0.5 * make_problem(0).base["macs"]
    True
    """

    population: int = 32
    """Sub-networks of each generation, per budget."""

    generations: int = 10
    """How often new ones are bred, after the first generation."""

    parents: int = 8
    """The best so far that have children, per budget."""

    mutation: float = 0.15
    """Chance of each group to be moved."""

    crossover: float = 0.5
    """Share of the children that have two parents."""

    seed: int = 0
    """Of all that is drawn."""

    metric: Literal["loss", "accuracy"] = "loss"
    """What is best on the search images: the lowest loss, which is finer grained, or the highest accuracy."""

    def __post_init__(self) -> None:
        check_settings(self, counts=["population", "generations", "parents"], shares=["mutation", "crossover"])

    def find(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        base: Mapping[str, float],
    ) -> list[Found]:
        rng, pool = np.random.default_rng(self.seed), Pool(costs, base, scorer, self.metric)
        holds = [make_holds(costs, budget, base) for budget in budgets]
        even = dict.fromkeys(space.free, 0.5)
        first = [even, *(draw_places(space, rng) for _ in range(self.population - 1))]
        pool.score([fit(space, places, each, rng) for each in holds for places in first])
        for _ in range(self.generations):
            parents = [pool.best(budget, self.parents) for budget in budgets]
            rows = list(zip(parents, holds, strict=True)) * self.population
            pool.score([self._child(space, best, each, rng) for best, each in rows])
        return [pool.found(budget) for budget in budgets]

    def _child(self, space: Space, parents: Sequence[Widths], holds: Holds, rng: np.random.Generator) -> Widths:
        mother, father = (parents[int(rng.integers(len(parents)))] for _ in range(2))
        child = mother
        if rng.uniform() < self.crossover:
            child = mother.replace({group: father[group] for group in space.free if rng.uniform() < 0.5})
        for group in space.free:
            if rng.uniform() < self.mutation:
                child = move(space, child, group, int(rng.choice(_MOVES)))
        return fill(space, narrow(space, child, holds, rng), holds, rng)


METHODS.register("evolution", Evolution)
