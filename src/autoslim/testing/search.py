"""The contract of a search method, on made-up networks whose optimum is known: milliseconds, and no torch.

>>> from autoslim.search import Greedy
>>> check_search_method(Greedy())
"""

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autoslim.budget import Budget
from autoslim.errors import BudgetError
from autoslim.search import Cost, Found, Greedy, Method, Referee, Sample, Score, Space, Step
from autoslim.widths import Widths


@dataclass(frozen=True)
class LinearCost:
    """`constant` + the sum of `per_channel` x channels."""

    per_channel: Mapping[str, float]
    constant: float = 0.0

    def __call__(self, widths: Mapping[str, int]) -> float:
        return self.constant + sum(price * widths[group] for group, price in self.per_channel.items())

    def many(self, widths: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
        return np.array([self(each) for each in widths], dtype=np.float64)


@dataclass(frozen=True)
class ChainCost:
    """The MACs of convolutions in a row: `scale` x the sum of inputs x outputs, from `first` channels to `last`."""

    groups: tuple[str, ...]
    first: int = 3
    last: int = 10
    scale: float = 1.0

    def __call__(self, widths: Mapping[str, int]) -> float:
        channels = [self.first, *(widths[group] for group in self.groups), self.last]
        return self.scale * sum(a * b for a, b in itertools.pairwise(channels))

    def many(self, widths: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
        return np.array([self(each) for each in widths], dtype=np.float64)


@dataclass
class ConvexScorer:
    """A loss that is additive, and convex and falling in every width: `weight` x (size / width - 1).

    The accuracy is affine in the loss, so that both have the same optimum. `asked` keeps what was scored, in order.
    """

    weights: Mapping[str, float]
    sizes: Mapping[str, int]
    asked: list[Widths] = field(default_factory=list[Widths])

    def score(self, widths: Widths) -> Score:
        self.asked.append(widths)
        loss = 1.0 + sum(self.weights[group] * (self.sizes[group] / widths[group] - 1) for group in self.weights)
        return Score(loss, 1 - loss / 1000)

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        return [self.score(each) for each in widths]

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        """One image, so that there is nothing to race."""
        scores = self.score_many(trials)
        return [Sample(np.array([score.loss]), np.array([score.accuracy])) for score in scores]


@dataclass(frozen=True)
class Problem:
    """A made-up network to search."""

    space: Space
    costs: Mapping[str, Cost]
    weights: Mapping[str, float]

    @property
    def base(self) -> dict[str, float]:
        return {metric: cost(self.space.widest) for metric, cost in self.costs.items()}

    def scorer(self) -> ConvexScorer:
        return ConvexScorer(self.weights, self.space.widest)

    def search(self, method: Method, *texts: str, done: Sequence[Step] = ()) -> tuple[list[Found], list[Step]]:
        """What the method finds for these budgets, and the steps it took; `done` are not among them."""
        steps: list[Step] = []
        budgets = [Budget.parse(text) for text in texts]
        found = method.search(
            self.space, self.costs, budgets, self.scorer(), base=self.base, done=done, on_step=steps.append
        )
        return found, steps


def make_problem(seed: int, *, groups: int = 4, levels: int = 6) -> Problem:
    """Convolutions in a row, one of them frozen, one in atoms of 4 channels; costs "macs" and "params"."""
    rng = random.Random(seed)
    names = tuple(f"conv{number}" for number in range(groups))
    atoms = {name: 4 if name == "conv1" else 1 for name in names}
    units = {name: 4 * rng.randint(1, 3) for name in names}
    candidates = {name: tuple(units[name] * level for level in range(1, levels + 1)) for name in names}
    candidates["conv2"] = candidates["conv2"][-1:]
    weights = {name: rng.uniform(0.1, 2.0) for name in names}
    per_channel = {name: float(rng.randint(20, 80)) if name != "conv2" else 1.0 for name in names}
    costs = {"macs": ChainCost(names, scale=49.0), "params": LinearCost(per_channel, 17.0)}
    return Problem(Space(candidates, atoms), costs, weights)


def check_search_method(method: Method, *, seeds: Sequence[int] = (0, 1)) -> None:
    """Raises AssertionError unless `method` keeps the contract of `autoslim.search.Method`.

    Budgets hold, with widths that are allowed and what is said of them true; a budget that the widest network holds
    gives the widest; one that the narrowest does not hold is refused; the same search gives the same result; and a
    search that is stopped after any of its steps, written to JSON and taken up again ends in that result too.
    """
    for seed in seeds:
        problem = make_problem(seed)
        found, steps = problem.search(method, *_BUDGETS)
        _check_found(method, problem, found)
        _check_allowed(method, problem)
        _check_refusal(method, problem)
        _check_steps(problem, steps)
        _check_resume(method, problem, found, steps)


_BUDGETS = ("macs<=40%", "macs<=100%", "macs<=75%,params<=60%", "params<=50%", "macs<=40%")


def _check_found(method: Method, problem: Problem, found: list[Found]) -> None:
    assert [find.budget.text for find in found] == list(_BUDGETS), "one find per budget, in the order of the budgets"
    for find in found:
        assert find.budget.holds(find.costs, problem.base), f"{find.budget.text} is not held by {find.costs}"
        assert find.costs == {metric: cost(find.widths) for metric, cost in problem.costs.items()}
        assert find.score == problem.scorer().score(find.widths)
        assert find.widths.keys() == problem.space.candidates.keys()
        for group, width in find.widths.items():
            most, atom = problem.space.widest[group], problem.space.atoms[group]
            assert atom <= width <= most, f"{group}: {width} is outside {atom} to {most}"
            assert width % atom == 0, f"{group}: {width} is no whole number of atoms of {atom}"
            assert group in problem.space.free or width == most, f"{group} is frozen at {most}, got {width}"
    assert found[1].widths == problem.space.widest, "a budget that the widest holds gives the widest"
    assert found[0] == found[4], "equal budgets, equal finds"
    assert problem.search(method)[0] == [], "no budgets, nothing found"


def _check_allowed(method: Method, problem: Problem) -> None:
    """Where the user lets a group have nothing but its candidates, all methods take candidates."""
    limited = replace(problem, space=replace(problem.space, allowed=problem.space.candidates))
    for find in limited.search(method, *_BUDGETS)[0]:
        for group, width in find.widths.items():
            allowed = limited.space.allowed[group]
            assert width in allowed, f"{group}: {width} is none of those allowed, {allowed}"


def _check_refusal(method: Method, problem: Problem) -> None:
    least = problem.costs["macs"](problem.space.narrowest)
    found, _ = problem.search(method, f"macs<={least:.0f}")
    assert found[0].costs["macs"] <= least, "what the narrowest holds is found"
    try:
        problem.search(method, "macs<=100%", f"macs<={least - 1:.0f}")
    except BudgetError:
        return
    raise AssertionError("a budget that the narrowest does not hold is refused")


def _check_steps(problem: Problem, steps: list[Step]) -> None:
    """A method that tells no steps passes; one that does must tell the path from the widest, one group at a time."""
    widths = problem.space.widest
    for number, step in enumerate(steps, start=1):
        assert step.step == number
        assert step.before == widths[step.group] > step.after, "a step makes its group narrower"
        widths = widths.replace({step.group: step.after})
        assert step.widths == widths, "a step changes no other group"
        assert step.costs == {metric: cost(widths) for metric, cost in problem.costs.items()}
        assert Score(step.loss, step.accuracy) == problem.scorer().score(widths)


def _check_resume(method: Method, problem: Problem, found: list[Found], steps: list[Step]) -> None:
    lines = [json.dumps(step.to_json()) for step in steps]
    for cut in range(len(lines) + 1):
        done = [Step.from_json(json.loads(line)) for line in lines[:cut]]
        again, rest = problem.search(method, *_BUDGETS, done=done)
        where = f"taken up after step {cut}, the" if cut else "the same"
        assert again == found, f"{where} search ends in another result"
        assert [json.dumps(step.to_json()) for step in rest] == lines[cut:], f"other steps after step {cut}"


def check_greedy(method: Greedy, *, seeds: Sequence[int] = (0, 1)) -> None:
    """Raises AssertionError unless greedy steps give the optimum where theory says so (Fox 1966, marginal allocation).

    With an additive convex loss and a linear cost, every point of the greedy path is the best network of its cost; if
    all steps save the same, that holds for each budget whatever the weighing. All finds of one search are nested.
    """
    for seed in seeds:
        found = make_problem(seed).search(method, "macs<=80%", "macs<=60%", "macs<=40%")[0]
        for wide, slim in itertools.pairwise(found):
            assert all(wide.widths[group] >= width for group, width in slim.widths.items()), "finds are nested"
        rng = random.Random(seed)
        prices = {f"g{number}": float(rng.randint(1, 9)) for number in range(3)}
        if method.normalize == "cost":
            _check_optimal(method, prices, rng)
        _check_optimal(method, dict.fromkeys(prices, 5.0), rng)


def _check_optimal(method: Greedy, per_channel: Mapping[str, float], rng: random.Random) -> None:
    """Compares the finds for the cost of every point of the path with all networks there are."""
    candidates = {name: tuple(range(4, 25, 4)) for name in per_channel}
    weights = {name: rng.uniform(0.1, 2.0) for name in per_channel}
    cost = LinearCost(per_channel)
    problem = Problem(Space(candidates, dict.fromkeys(candidates, 1)), {"macs": cost}, weights)
    steps = problem.search(method, f"macs<={cost(problem.space.narrowest):.0f}")[1]
    everything = [Widths(zip(candidates, choice, strict=True)) for choice in itertools.product(*candidates.values())]
    scores = problem.scorer().score_many(everything)
    for find in problem.search(method, *(f"macs<={step.costs['macs']:.0f}" for step in steps))[0]:
        budget = find.budget.limits[0].value
        best = min(score.loss for each, score in zip(everything, scores, strict=True) if cost(each) <= budget)
        assert math.isclose(find.score.loss, best), f"greedy has a loss of {find.score.loss}, the best is {best}"
