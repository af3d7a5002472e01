"""Before anything is spent: what networks cost, whether the budgets can be met, and how long the search will take."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from autoslim.errors import BudgetError
from autoslim.pipeline._finalists import list_rivals
from autoslim.pipeline._forecast import Training, time_trainings
from autoslim.pipeline._job import Job
from autoslim.progress import say_many
from autoslim.report.text import say_cost
from autoslim.search import Method, Step
from autoslim.search._base import STUCK, costs_of
from autoslim.search._surrogate import Surrogate

_ALWAYS = ("macs", "params")


@dataclass(frozen=True)
class Prices:
    """What networks cost in one metric: the narrowest, all groups at half, the widest, and the one given."""

    narrowest: float
    half: float
    widest: float
    own: float


@dataclass(frozen=True)
class Reach:
    """Whether one limit of a budget can be met.

    Attributes:
        budget: As it was written.
        metric: Of the limit.
        most: What a network may cost.
        share: `most` as a share of the cost of the network given.
        narrowest: The narrowest network's share of the same.
        held: Whether the narrowest network holds it.
    """

    budget: str
    metric: str
    most: float
    share: float
    narrowest: float
    held: bool


@dataclass(frozen=True)
class Effort:
    """What a search will take.

    Attributes:
        steps: On the way down, for methods that go in steps; else 0.
        evaluations: Sub-networks that are judged on all search images; see `count_evaluations`.
        seconds: Of one evaluation, as measured: of all groups a candidate below the widest.
        trained: Whether it was measured in the trained supernet; else in the network that is not trained yet.
        finalists: Evaluations of the searches of their own that finalists come from.
    """

    steps: int
    evaluations: int
    seconds: float
    trained: bool
    finalists: int = 0

    @property
    def total(self) -> float:
        """Seconds of the whole search, and of the finalists'."""
        return (self.evaluations + self.finalists) * self.seconds


@dataclass(frozen=True)
class Plan:
    """All of that: an `effort` where there is something to search, else in `refused` what is wrong and what to do.

    `supernet` and `retrain` are the trainings of a run; None where it has none, or is refused.
    """

    method: str
    prices: Mapping[str, Prices]
    budgets: tuple[Reach, ...]
    effort: Effort | None
    refused: str | None
    supernet: Training | None = None
    retrain: Training | None = None

    def to_json(self) -> dict[str, Any]:
        stages = {"effort": self.effort, "supernet": self.supernet, "retrain": self.retrain}
        told = {name: each and {**asdict(each), "total": each.total} for name, each in stages.items()}
        return {"_type": "Plan", "_version": 1, **asdict(self), **told}

    def lines(self) -> list[str]:
        """A few lines for the start of a run."""
        told = [
            f"{metric}: {say_cost(metric, p.narrowest)} narrowest, {say_cost(metric, p.half)} uniform half, "
            f"{say_cost(metric, p.widest)} widest, {say_cost(metric, p.own)} yours"
            for metric, p in self.prices.items()
        ]
        for reach in self.budgets:
            told.append(
                f"{reach.budget}: {self.verdict(reach)}, {reach.metric} at most {say_cost(reach.metric, reach.most)} "
                f"({reach.share:.1%}; narrowest {reach.narrowest:.1%})"
            )
        return [*told, *self.durations()]

    def durations(self) -> list[str]:
        """How long the stages will take, each in a line, and all of them; nothing where a budget is refused."""
        if self.effort is None:
            return []
        told = [self._say_effort(self.effort)]
        if self.supernet is None:
            return told
        steps = f"{say_many(self.supernet.steps, 'step')} of {_duration(self.supernet.seconds)}"
        told.insert(0, f"supernet: {steps}: about {_duration(self.supernet.total)}")
        if self.retrain is not None:
            steps = (
                f"{say_many(self.retrain.steps, 'step')} of {_duration(self.retrain.seconds)} as your own network takes"
            )
            told.append(
                f"retrain: {say_many(self.retrain.networks, 'network')}, {steps}: at most about "
                f"{_duration(self.retrain.total)}"
            )
        total = self.effort.total + self.supernet.total + (self.retrain.total if self.retrain is not None else 0)
        return [*told, f"in all: about {_duration(total)}"]

    def _say_effort(self, effort: Effort) -> str:
        steps = f"about {say_many(effort.steps, 'step')}, " if effort.steps else ""
        where = "" if effort.trained else ", timed in the untrained network"
        others = f" and {say_many(effort.finalists, 'evaluation')} for finalists" if effort.finalists else ""
        return (
            f"{self.method}: {steps}about {say_many(effort.evaluations, 'evaluation')}{others} of "
            f"{_duration(effort.seconds)}{where}: about {_duration(effort.total)}"
        )

    def verdict(self, reach: Reach) -> str:
        """Whether a limit can be met, in words."""
        if self.idle(reach):
            return "nothing to slim, the whole network holds it"
        return "can be met" if reach.held else "can't be met"

    def idle(self, reach: Reach) -> bool:
        """Whether the whole network holds a limit, so that there is nothing to slim for it."""
        return self.prices[reach.metric].widest <= reach.most


def make_plan(job: Job, *, train: bool = False) -> Plan:
    """Prices, budgets and effort of a job that is prepared; one network is scored, nothing is written.

    Args:
        job: With or without a trained supernet.
        train: Whether its supernet will be trained for these budgets: then one of them must leave something to slim.

    Raises:
        UnknownNameError: A budget's metric has no cost.
    """
    budgets = job.config.budgets
    limits = [(budget, limit) for budget in budgets for limit in budget.limits]
    metrics = dict.fromkeys([*_ALWAYS, *(limit.metric for _, limit in limits)])
    networks = [job.space.narrowest, job.graph.uniform_widths(0.5), job.space.widest]
    rows = costs_of({metric: job.costs[metric] for metric in metrics}, networks)
    prices = {metric: Prices(*(row[metric] for row in rows), own=job.base[metric]) for metric in metrics}
    reaches: list[Reach] = []
    for budget, limit in limits:
        most, own, least = limit.absolute(job.base), job.base[limit.metric], rows[0][limit.metric]
        reaches.append(Reach(budget.text, limit.metric, most, most / own, least / own, least <= most))
    try:
        job.check_budgets()
    except BudgetError as error:
        return Plan(job.config.method, prices, tuple(reaches), None, str(error))
    plan = Plan(job.config.method, prices, tuple(reaches), None, None)
    if train and all(map(plan.idle, reaches)):
        return replace(plan, refused=_all_held(plan) if job.space.free else f"Nothing to slim. {STUCK}")
    effort = _effort(job)
    if not train:
        return replace(plan, effort=effort)
    forward = effort.seconds * job.ranks.size / (len(job.calibration) + len(job.judges))
    supernet, retrain = time_trainings(job, forward)
    return replace(plan, effort=effort, supernet=supernet, retrain=retrain)


def _all_held(plan: Plan) -> str:
    """What to do where the whole network holds every budget."""
    reach, texts = plan.budgets[0], dict.fromkeys(each.budget for each in plan.budgets)
    whole = say_cost(reach.metric, plan.prices[reach.metric].widest)
    lower = f"{math.ceil(100 * max(0.5, reach.narrowest))}%"
    return (
        f"Nothing to slim: the whole network ({reach.metric} {whole}) holds {' and '.join(map(repr, texts))} as it is, "
        f"and a supernet would be trained for nothing. Expected a budget below {whole}. Write for instance "
        f'"{reach.metric}<={lower}".'
    )


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _effort(job: Job) -> Effort:
    steps, evaluations = count_evaluations(job)
    others = islice(list_rivals(job).values(), max(job.config.finalists - 2, 0))
    finalists = sum(count_evaluations(job, method)[1] for method in others)
    space = job.space
    job.fresh_scorer.score(space.narrowest)  # warms up; a search meets new shapes all the time, so others are timed
    started = time.perf_counter()
    job.fresh_scorer.score(space.widest.replace({group: space.candidates[group][-2] for group in space.free}))
    return Effort(steps, evaluations, time.perf_counter() - started, job.trained, finalists)


def count_evaluations(job: Job, method: Method | None = None) -> tuple[int, int]:
    """Steps and evaluations of a job's search, counted in the same search with a made-up loss in place of the network.

    With a `method` those of that method's. For one that draws or measures a fixed number of networks it is about that
    number; for one that goes down a path it depends on the path. Not counted is what a race and shared passes save,
    what is remembered from earlier searches, and what a latency that is corrected on the way adds.
    """
    surrogate, steps, searcher = Surrogate(job.space.widest), list[Step](), method or job.config.search
    searcher.search(job.space, job.costs, job.config.budgets, surrogate, base=job.base, on_step=steps.append)
    return len(steps), surrogate.asked
