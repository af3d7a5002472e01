"""Races and memory: who drops out, who is looked at again, and that the path stays what it should be."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from autoslim.budget import Budget
from autoslim.search import METHODS, Exhaustive, Greedy, Method, Referee, Sample, Score, Step
from autoslim.search._path import Option
from autoslim.search._race import Race
from autoslim.search.greedy import _Chooser, _Memory
from autoslim.testing.search import Problem, make_problem
from autoslim.widths import Widths


@dataclass
class Noisy:
    """A known loss under noise per image, the same for all networks but for a share of their own."""

    problem: Problem
    own: float = 0.05
    images: int = 2000
    passes: int = field(default=0)

    def score(self, widths: Widths) -> Score:
        return self.samples([widths])[0].score

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        return [self.score(each) for each in widths]

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        whole = [self._sample(each) for each in trials]
        seen, alive = [0] * len(trials), list(range(len(trials)))
        for end in range(500, self.images + 1, 500):
            for at in alive:
                seen[at] = end
            if referee is not None and alive:
                alive = list(referee(alive, [Sample(whole[at].loss[:end], whole[at].accuracy[:end]) for at in alive]))
        self.passes += sum(seen)
        return [Sample(one.loss[:n], one.accuracy[:n]) for one, n in zip(whole, seen, strict=True)]

    def _sample(self, widths: Widths) -> Sample:
        loss = self.problem.scorer().score(widths).loss
        common = np.random.default_rng(0).normal(size=self.images)
        seed = sum(width * 31**at for at, width in enumerate(widths.values())) % 2**32
        own = np.random.default_rng(seed).normal(size=self.images)
        values = loss + common + self.own * own
        return Sample(values, (values < loss).astype(float))


def run(method: Method, problem: Problem, done: Sequence[Step] = (), own: float = 0.05) -> tuple[list[Step], Noisy]:
    steps: list[Step] = []
    scorer = Noisy(problem, own)
    budgets = [Budget.parse("macs<=35%")]
    method.search(problem.space, problem.costs, budgets, scorer, base=problem.base, done=done, on_step=steps.append)
    return steps, scorer


@pytest.mark.parametrize("seed", range(5))
def test_shortcuts_cost_fewer_passes_and_end_near_the_exhaustive_loss(seed: int):
    problem = make_problem(seed)
    slow, all_of_it = run(Exhaustive(), problem)
    fast, less = run(Greedy(), problem)
    assert less.passes < all_of_it.passes
    exact = problem.scorer()
    assert exact.score(fast[-1].widths).loss <= exact.score(slow[-1].widths).loss + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_each_shortcut_alone_costs_fewer_passes(seed: int):
    problem = make_problem(seed)

    def passes(**switches: bool) -> int:
        return run(Greedy(reuse=False, **switches), problem)[1].passes

    assert passes(race=True, memory=False) < passes(race=False, memory=False)
    assert passes(race=False, memory=True) < passes(race=False, memory=False)


@pytest.mark.parametrize("reuse", [True, False])
def test_reuse_is_asked_for_by_telling_what_all_share(reuse: bool):
    problem = make_problem(0)
    bases: list[Widths | None] = []

    class Watched(Noisy):
        def samples(
            self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
        ) -> list[Sample]:
            bases.extend([base] if len(trials) > 1 else [])
            return super().samples(trials, base=base, referee=referee)

    budgets = [Budget.parse("macs<=35%")]
    Greedy(memory=False, reuse=reuse).search(
        problem.space, problem.costs, budgets, Watched(problem), base=problem.base, on_step=lambda step: None
    )
    assert bases
    assert all((base is not None) == reuse for base in bases)


def test_without_shortcuts_greedy_is_exhaustive():
    for seed in range(5):
        problem = make_problem(seed)
        slow, _ = run(Exhaustive(), problem)
        plain, _ = run(Greedy(race=False, memory=False, reuse=False), problem)
        assert [step.to_json() for step in plain] == [step.to_json() for step in slow]


@pytest.mark.parametrize("name", ["greedy", "exhaustive"])
def test_a_search_taken_up_at_any_step_ends_byte_for_byte_the_same(name: str):
    problem = make_problem(7)
    method = METHODS[name]()
    steps, _ = run(method, problem, own=0.5)
    lines = [json.dumps(step.to_json()) for step in steps]
    for at in range(1, len(lines)):
        done = [Step.from_json(json.loads(line)) for line in lines[:at]]
        rest, _ = run(method, problem, done, own=0.5)
        assert [json.dumps(step.to_json()) for step in rest] == lines[at:]


def make_race(means: Sequence[float], savings: Sequence[float], margin: float) -> tuple[Race, list[Sample]]:
    random = np.random.default_rng(1)
    base = random.normal(size=500)
    samples = [Sample(base + mean + random.normal(size=500) * 0.1, np.zeros(500)) for mean in means]
    return Race(base, np.array(savings), metric="loss", risk=0.05, margin=margin, weighed=True), samples


@pytest.mark.parametrize(
    ("means", "savings", "left"),
    [
        ([0.1, 0.5], [1, 1], [0]),  # surely worse
        ([0.1, 0.5], [1, 10], [1]),  # per saving it is the better one
        ([0.1, 0.101], [1, 1], [0, 1]),  # too close to tell
        ([-0.5, -0.1], [1, 2], [1]),  # neither does harm: the larger saving
    ],
)
def test_who_drops_out(means: list[float], savings: list[float], left: list[int]):
    race, samples = make_race(means, savings, margin=0.0)
    assert race(list(range(len(means))), samples) == left


def test_what_could_be_better_by_no_more_than_the_margin_is_not_looked_at():
    """On a loss whose harms are what is remembered, the path stays what it was."""
    problem = make_problem(0, groups=8)
    paths = {margin: run(Greedy(margin=margin, race=False), problem, own=0.0) for margin in (0.0, 0.1)}
    assert paths[0.1][1].passes < paths[0.0][1].passes
    assert [step.widths for step in paths[0.1][0]] == [step.widths for step in paths[0.0][0]]


def test_where_harms_are_not_weighed_a_gain_may_have_become_more():
    chooser = _Chooser(Greedy(normalize="none"), Noisy(make_problem(0)), {"a": _Memory(after=8, rise=-0.01, since=1)})
    same, next_one = (Option("a", after, Widths({"a": after}), {}, 1.0) for after in (8, 4))
    assert chooser._expected(same, 1, least=True) == -0.01
    assert chooser._expected(same, 11, least=True) == pytest.approx(-0.01 / 0.98**10)
    assert chooser._expected(next_one, 1, least=True) == pytest.approx(-0.02)


def test_errors_that_none_of_the_images_shows_are_not_sure():
    """Neither has put an image in error so far: the larger saving may still be the worse one."""
    base = np.zeros(500)
    samples = [Sample(base, np.ones(500)) for _ in range(2)]
    race = Race(base, np.array([1.0, 2.0]), metric="accuracy", risk=0.05, margin=0.05, weighed=True)
    assert race([0, 1], samples) == [0, 1]
    worse = [samples[0], Sample(base, np.repeat([0.0, 1.0], [100, 400]))]
    race = Race(base, np.array([1.0, 2.0]), metric="accuracy", risk=0.05, margin=0.05, weighed=True)
    assert race([0, 1], worse) == [0]


def test_where_harms_are_not_weighed_close_ones_are_settled_by_the_saving_too():
    race, samples = make_race([0.1, 0.1002], [1, 2], margin=0.5)
    race.weighed = False
    assert race([0, 1], samples) == [1]


def test_close_ones_are_settled_by_the_saving():
    race, samples = make_race([0.1, 0.2002], [1, 2], margin=0.5)
    assert race([0, 1], samples) == [1]


def test_nobody_is_left_where_the_leader_is_surely_better():
    race, samples = make_race([0.5, 0.6], [1, 1], margin=0.0)
    race.leader = (race.base + 0.1, 1.0)
    assert race([0, 1], samples) == []


def test_nothing_is_sure_of_what_is_not_a_number():
    race, samples = make_race([0.1, 0.5], [1, 1], margin=0.0)
    samples[1].loss[3] = np.nan
    assert race([0, 1], samples) == [0, 1]
