"""Random search: the best of N sub-networks drawn under each budget. What any cleverer method has to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoslim.budget import Budget
from autoslim.search._base import METHODS, Cost, Found, Scorer, Space
from autoslim.search._pool import Pool, WholeSearch, check_settings, draw_places, fit, make_holds


@dataclass(frozen=True, kw_only=True)
class Random(WholeSearch):
    """Draws `samples` sub-networks for each budget, each filled up to it, and takes the best of all that hold it.

    Widths drawn one by one would cost about half of the network whatever the budget, and look alike. So a random shape
    is drawn, from the uniform network to one with all groups apart, and shifted as a whole until it just holds
    (`_pool.fit`). A network drawn for one budget answers every other one that it holds.

    A search evaluates `samples` networks per budget, less those that were drawn before. What is drawn for a budget
    follows from it and the seed alone, not from the other budgets.

    The source of the method, as a baseline that is hard to beat: Li & Talwalkar 2019, "Random search and
    reproducibility for neural architecture search".

    >>> from autoslim.testing.search import make_problem
    >>> (found,), _ = make_problem(0).search(Random(samples=8), "macs<=50%")
    >>> found.costs["macs"] <= 0.5 * make_problem(0).base["macs"]
    True
    """

    samples: int = 64
    """Sub-networks that are drawn for each budget."""

    seed: int = 0
    """Of what is drawn."""

    metric: Literal["loss", "accuracy"] = "loss"
    """What is best on the search images: the lowest loss, which is finer grained, or the highest accuracy."""

    def __post_init__(self) -> None:
        check_settings(self, counts=["samples"])

    def find(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        base: Mapping[str, float],
    ) -> list[Found]:
        pool = Pool(costs, base, scorer, self.metric)
        for budget in budgets:
            holds, rng = make_holds(costs, budget, base), np.random.default_rng(self.seed)
            pool.score([fit(space, draw_places(space, rng), holds, rng) for _ in range(self.samples)])
        return [pool.found(budget) for budget in budgets]


METHODS.register("random", Random)
