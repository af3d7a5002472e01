"""Random, evolution and knapsack: what each promises beyond the contract that all methods keep (`test_search.py`)."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.search import Evolution, Knapsack, Method, Random, Score, Space, Step, Uniform
from autoslim.testing.search import ConvexScorer, LinearCost, Problem, make_problem
from autoslim.widths import Widths

DRAWN = [Random(samples=16), Evolution(population=12, generations=3), Knapsack()]


@dataclass
class Bumpy(ConvexScorer):
    """Additive like its parent, but each group's loss goes up and down as it likes."""

    def score(self, widths: Widths) -> Score:
        self.asked.append(widths)
        loss = sum(
            random.Random(f"{group} {widths[group]}").uniform(0, weight) for group, weight in self.weights.items()
        )
        return Score(loss, 1 - loss / 1000)


class BumpyProblem(Problem):
    def scorer(self) -> ConvexScorer:
        return Bumpy(self.weights, self.space.widest)


@dataclass(frozen=True)
class Stairs:
    """A latency that falls by whole vectors of 16 channels."""

    def __call__(self, widths: Mapping[str, int]) -> float:
        return float(sum(-(-width // 16) for width in widths.values()))

    def many(self, widths: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
        return np.array([self(each) for each in widths])


def make_bumpy(seed: int) -> BumpyProblem:
    rng = random.Random(seed)
    names = [f"g{number}" for number in range(4)]
    space = Space({name: tuple(range(4, 25, 4)) for name in names}, dict.fromkeys(names, 1))
    costs = {metric: LinearCost({name: float(rng.randint(1, 9)) for name in names}) for metric in ("macs", "params")}
    return BumpyProblem(space, costs, {name: rng.uniform(0.5, 2) for name in names})


def best_of_all(problem: Problem, budget: Budget) -> float:
    rows = [
        Widths(zip(problem.space.candidates, choice, strict=True))
        for choice in itertools.product(*problem.space.candidates.values())
    ]
    within = [each for each in rows if budget.holds({m: c(each) for m, c in problem.costs.items()}, problem.base)]
    return min(score.loss for score in problem.scorer().score_many(within))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.3, 0.95))
def test_knapsack_is_exact_where_loss_and_costs_are_sums(seed: int, share: float):
    problem = make_bumpy(seed)
    for text in (f"macs<={100 * share:.6f}%", f"macs<={100 * share:.6f}%,params<=70%"):
        (found,), _ = problem.search(Knapsack(), text)
        assert found.score.loss == pytest.approx(best_of_all(problem, found.budget), abs=1e-9)


def test_knapsack_measures_each_candidate_once_for_all_budgets():
    problem, scorer = make_problem(0), make_problem(0).scorer()
    budgets = [Budget.parse(f"macs<={share}%") for share in (70, 50, 30)]
    found = Knapsack().search(problem.space, problem.costs, budgets, scorer, base=problem.base)
    narrower = sum(len(problem.space.candidates[group]) - 1 for group in problem.space.free)
    assert len(scorer.asked) == 1 + narrower + len(budgets)
    assert scorer.asked[-3:] == [each.widths for each in found]


def test_evolution_comes_close_and_does_not_end_below_its_first_generation():
    """On losses that fall with every width, as a supernet's do; ones that jump at random it can't climb."""
    for seed in range(5):
        bumpy = make_bumpy(seed)
        problem = Problem(bumpy.space, bumpy.costs, bumpy.weights)
        (found,), _ = problem.search(Evolution(), "macs<=50%")
        (first,), _ = problem.search(Evolution(generations=1), "macs<=50%")
        (drawn,), _ = problem.search(Random(samples=32), "macs<=50%")
        best = best_of_all(problem, found.budget)
        assert best <= found.score.loss <= first.score.loss
        assert found.score.loss <= 1.02 * best
        assert best <= drawn.score.loss


def test_what_is_drawn_uses_the_budget_up_and_follows_the_seed():
    problem = make_problem(3, groups=6, levels=12)
    for method in DRAWN[:2]:
        scorer = problem.scorer()
        method.search(problem.space, problem.costs, [Budget.parse("macs<=50%")], scorer, base=problem.base)
        shares = [problem.costs["macs"](widths) / problem.base["macs"] for widths in scorer.asked]
        assert max(shares) <= 0.5
        assert np.median(shares) > 0.45
        again, other = problem.scorer(), problem.scorer()
        method.search(problem.space, problem.costs, [Budget.parse("macs<=50%")], again, base=problem.base)
        seeded = replace(method, seed=1)  # type: ignore[call-arg]
        seeded.search(problem.space, problem.costs, [Budget.parse("macs<=50%")], other, base=problem.base)
        assert again.asked == scorer.asked != other.asked


@pytest.mark.parametrize("method", DRAWN, ids=lambda method: type(method).__name__)
def test_latency_in_stairs_and_scores_that_are_no_numbers(method: Method):
    names = ("a", "b", "c")
    space = Space({name: tuple(range(8, 65, 8)) for name in names}, dict.fromkeys(names, 1))

    class Torn(ConvexScorer):
        def score(self, widths: Widths) -> Score:
            score = super().score(widths)
            return Score(float("nan"), score.accuracy) if widths["b"] in (8, 40) else score

    scorer = Torn({"a": 1.0, "b": 0.5, "c": 2.0}, space.widest)
    budgets = [Budget.parse(f"latency<={most}") for most in (9, 6, 3)]
    found = method.search(space, {"latency": Stairs()}, budgets, scorer, base={"latency": 12.0})
    for each in found:
        assert each.budget.holds(each.costs, {"latency": 12.0})
        assert each.widths["b"] not in (8, 40)
        assert np.isfinite(each.score.loss)


@pytest.mark.parametrize("method", DRAWN, ids=lambda method: type(method).__name__)
def test_steps_of_another_method_and_impossible_budgets_are_refused_before_anything_is_scored(method: Method):
    problem, scorer = make_problem(0), make_problem(0).scorer()
    step = Step(1, "conv0", 8, 4, 0.0, 0.0, {}, problem.space.widest, {})
    budget = [Budget.parse("macs<=50%")]
    with pytest.raises(RunFolderError, match=r"holds 1 steps.*takes none"):
        method.search(problem.space, problem.costs, budget, scorer, base=problem.base, done=[step])
    with pytest.raises(BudgetError, match=r"no sub-network holds it"):
        method.search(problem.space, problem.costs, [Budget.parse("macs<=0.1%")], scorer, base=problem.base)
    assert not scorer.asked


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Random, {"samples": 0}),
        (Random, {"seed": -1}),
        (Evolution, {"population": 0}),
        (Evolution, {"mutation": 1.5}),
        (Evolution, {"metric": "loos"}),
        (Knapsack, {"metric": "loos"}),
    ],
)
def test_settings_that_can_not_be_are_refused(kind: type, options: dict[str, object]):
    with pytest.raises(ConfigError, match=next(iter(options))):
        kind(**options)


def test_nothing_drawn_is_far_worse_than_uniform():
    """The uniform network is among evolution's first; knapsack starts from it."""
    for seed in range(3):
        problem = make_problem(seed)
        uniform = problem.search(Uniform(), "macs<=50%")[0][0].score.loss
        for method in (Evolution(), Knapsack()):
            assert problem.search(method, "macs<=50%")[0][0].score.loss < 1.05 * uniform
