"""A sub-network for any budget from the path of a search that is done: nothing is searched again.

The search's steps are one nested path from the widest network down, and a budget gets the first point of it that holds,
as in the search itself (AutoSlim, section 3.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.costs import COSTS, make_cost
from autoslim.costs.latency import LatencyCost
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.graph import ChannelGraph
from autoslim.pipeline import reopen_job, say
from autoslim.pipeline._search import LATENCY, STEPS, obtain_latency
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder, read_json
from autoslim.saved import save_network
from autoslim.search import Score, Step
from autoslim.widths import Widths


@dataclass(frozen=True, kw_only=True)
class Picked:
    """A point of a search's path.

    Attributes:
        budget: What it holds.
        step: After so many of the path's `steps`.
        widths: Its channels per group.
        costs: Of each metric.
        base: The costs of the network as given.
        score: In the supernet, on the search images; None for the widest, which a search need not score.
        measured: Whether its latency was measured, and not only predicted.
    """

    budget: Budget
    step: int
    steps: int
    widths: Widths
    costs: Mapping[str, float]
    base: Mapping[str, float]
    score: Score | None
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        facts = {"budget": self.budget.text, "step": self.step, "steps": self.steps, "widths": dict(self.widths)}
        score = vars(self.score) if self.score is not None else None
        return {**facts, "costs": dict(self.costs), "base": dict(self.base), "score": score, "measured": self.measured}


def pick_network(folder: str | Path, budget: str | Budget, *, search: str = "", shown: Shown | None = None) -> Picked:
    """The first point of a search's path at which a budget holds.

    Costs in closed form are read from the path: no network is built, no image is loaded. A latency is predicted as in
    the run, and measured for the network that is picked; where it is above the limit the next point is tried.

    Args:
        folder: Of a run whose search is done.
        budget: As for `autoslim run`; shares are of the network as given.
        search: A later search's name, a folder below `searches/`; default the run's own search.
        shown: Where the progress of measurements goes.

    Raises:
        RunFolderError: No run, or its search has left no path.
        BudgetError: No point of the path holds the budget.
    """
    folder, budget = Path(folder), Budget.parse(budget) if isinstance(budget, str) else budget
    points = _read_path(folder, search)
    if any(limit.metric == LATENCY for limit in budget.limits):
        return _pick_measured(folder, budget, points, shown or Shown())
    return _first(budget, points, _read_base(folder))


def extract_picked(folder: str | Path, picked: Picked, out: str | Path, *, shown: Shown | None = None) -> Path:
    """Writes what was picked as a model folder: the supernet's weights, BatchNorm statistics of its own, no retraining.

    Args:
        folder: Of the run.
        picked: From `pick_network`.
        out: Must not exist.
        shown: Where progress goes.

    Raises:
        ConfigError: `out` is there already.
        RunFolderError: The supernet is gone, or model or data have changed.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out} is there already; expected a new folder. Give another one with --extract.")
    job = reopen_job(folder, shown=shown or Shown(quiet=True))
    if not job.supernet_path.exists():
        raise RunFolderError(
            f"`{job.supernet_path.name}` is missing in {folder}; expected the trained supernet, whose weights are "
            "taken. Restore it."
        )
    job.train_supernet()  # reads it
    score = picked.score or job.scorer.score(picked.widths)
    facts = {"budget": picked.budget.text, "retrained": False, "search_loss": score.loss}
    save_network(
        out,
        job.inherit(picked.widths).eval(),
        builder=job.builder,
        attributes=job.graph.attributes(picked.widths),
        widths=picked.widths,
        preparation=job.preparation,
        metrics={**facts, f"search_{job.task.metric.key}": job.task.metric.turn(score.accuracy), **picked.costs},
    )
    return out


@dataclass(frozen=True)
class _Point:
    widths: Widths
    costs: Mapping[str, float]
    score: Score | None


def _read_path(folder: Path, search: str) -> list[_Point]:
    """The widest network, and the network after each step."""
    RunFolder.open(folder)  # refuses what is no run
    place = folder / "searches" / search if search else folder
    steps = [Step.from_json(line) for line in RunFolder(place).lines(STEPS)]
    if not steps:
        raise RunFolderError(
            f"`{STEPS}` in {place} has no steps; expected the path of a search that goes down one (greedy). Search for "
            f'this budget instead: autoslim search {folder} --budget "..."'
        )
    graph = ChannelGraph.from_json(read_json(folder / "graph.json", kind="ChannelGraph", version=2))
    widest = graph.max_widths()
    costs: dict[str, float] = {name: int(make_cost(name, graph)(widest)) for name in COSTS}
    return [_Point(widest, costs, None), *(_Point(s.widths, s.costs, Score(s.loss, s.accuracy)) for s in steps)]


def _read_base(folder: Path) -> dict[str, float]:
    """The costs of the network as given: from the summary, or anew where the run has not got so far."""
    if not (folder / "summary.json").exists():
        return reopen_job(folder, shown=Shown(quiet=True)).base
    base = read_json(folder / "summary.json", kind="Summary", versions=(1, 2))["base"]
    return {name: value for name, value in base.items() if isinstance(value, (int, float))}


def _first(budget: Budget, points: Sequence[_Point], base: Mapping[str, float], *, measured: bool = False) -> Picked:
    for step, point in enumerate(points):
        if budget.holds(point.costs, base):
            return Picked(
                budget=budget, step=step, steps=len(points) - 1, widths=point.widths, costs=point.costs, base=base,
                score=point.score, measured=measured,
            )  # fmt: skip
    end = {limit.metric: points[-1].costs[limit.metric] for limit in budget.limits}
    least = ", ".join(f"{metric} {say(value, metric)} ({value / base[metric]:.1%})" for metric, value in end.items())
    raise BudgetError(
        f"Budget {budget.text!r}: the search's path ends at {least}; expected a point that holds it. Allow more, or go "
        f'on from there: autoslim search RUN --budget "{budget.text}"'
    )


def _pick_measured(folder: Path, budget: Budget, points: Sequence[_Point], shown: Shown) -> Picked:
    """With latencies as predicted here, and the picked one's as measured."""
    job = reopen_job(folder, shown=shown)
    cost = job.costs.get(LATENCY)
    if not isinstance(cost, LatencyCost):  # the run had no use for it
        cost, job.base[LATENCY] = obtain_latency(job)
    while True:
        latencies = cost.many([point.widths for point in points]).tolist()
        priced = [
            replace(point, costs={**point.costs, LATENCY: cost.measured.get(point.widths, latency)})
            for point, latency in zip(points, latencies, strict=True)
        ]
        picked = _first(budget, priced, job.base, measured=True)
        if picked.widths in cost.measured:
            return picked
        (latency,) = cost.measure([picked.widths])
        shown.line(f"measure   step {picked.step}: predicted {picked.costs[LATENCY]:.3g} ms, measured {latency}")
        cost = cost.corrected({picked.widths: latency.median})
