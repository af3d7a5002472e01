"""A sub-network for a budget from a search that is done: nothing is searched again.

The steps of a greedy search are one nested path from the widest network down, and any budget gets the first point of it
that holds, as in the search itself (AutoSlim, section 3.3). Methods that go down no path leave one network for each
budget that they were asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.costs import COSTS, check_metric, make_cost
from autoslim.costs.latency import LatencyCost
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.graph import ChannelGraph
from autoslim.pipeline import RunConfig, read_config, reopen_job
from autoslim.pipeline._again import SEARCHES, open_search, read_found, read_search
from autoslim.pipeline._latency import LATENCY
from autoslim.pipeline._reopen import load_supernet
from autoslim.pipeline._search import STEPS
from autoslim.progress import Shown
from autoslim.report.text import say_cost
from autoslim.run_folder import RunFolder, read_json
from autoslim.saved import save_network
from autoslim.search import METHODS, Score, Step
from autoslim.widths import Widths


@dataclass(frozen=True, kw_only=True)
class Picked:
    """What a search has for a budget.

    Attributes:
        budget: What it holds.
        method: Of the search.
        step: After so many of the path's `steps`; both None for a method that goes down no path.
        widths: Its channels per group.
        costs: Of each metric.
        base: The costs of the network as given.
        score: In the supernet, on the search images; None for the widest, which a search need not score.
        measured: Whether its latency was measured, and not only predicted.
    """

    budget: Budget
    method: str
    step: int | None
    steps: int | None
    widths: Widths
    costs: Mapping[str, float]
    base: Mapping[str, float]
    score: Score | None
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        facts = {"budget": self.budget.text, "method": self.method, "step": self.step, "steps": self.steps}
        costs = {"widths": dict(self.widths), "costs": dict(self.costs), "base": dict(self.base)}
        score = vars(self.score) if self.score is not None else None
        return {**facts, **costs, "score": score, "measured": self.measured}


def pick_network(
    folder: str | Path, budget: str | Budget, *, search: str = "", data: Any = None, shown: Shown | None = None
) -> Picked:
    """The first point of a search's path at which a budget holds, or what the search found for this very budget.

    Costs in closed form are read from the files: no network is built, no image is loaded. A latency is predicted as in
    the search, and measured for the network that is picked, if the search has not; where it is above the limit the next
    point is tried.

    Args:
        folder: Of a run whose search is done.
        budget: As for `autoslim run`; shares are of the network as given.
        search: A later search's name, a folder below `searches/`; default the run's own search.
        data: What the run was given in Python, once more.
        shown: Where the progress of measurements goes.

    Raises:
        UnknownNameError: No cost has the name of a limit's metric.
        RunFolderError: No run, no such search, or one that has not ended.
        BudgetError: No point of the path holds the budget, or it was not searched by a method that goes down no path.
    """
    folder, budget = Path(folder), Budget.parse(budget) if isinstance(budget, str) else budget
    for limit in budget.limits:
        check_metric(limit.metric)
    asked = _find_search(folder, search, budget)
    points = _read_path(asked) or _read_network(asked, budget)
    if any(limit.metric == LATENCY for limit in budget.limits):
        return _pick_measured(asked, budget, points, data, shown or Shown())
    return _first(budget, asked.config.method, points, _read_base(folder, data))


def extract_picked(
    folder: str | Path, picked: Picked, out: str | Path, *, data: Any = None, shown: Shown | None = None
) -> Path:
    """Writes what was picked as a model folder: the supernet's weights, BatchNorm statistics of its own, no retraining.

    Args:
        folder: Of the run.
        picked: From `pick_network`.
        out: Must not exist.
        data: What the run was given in Python, once more.
        shown: Where progress goes.

    Raises:
        ConfigError: `out` is there already.
        RunFolderError: The supernet is gone, or model or data have changed.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out} is there already; expected a new folder. Give another one with --extract.")
    job = reopen_job(folder, shown=shown or Shown(quiet=True), data=data)
    load_supernet(job)
    score = picked.score or job.scorer.score(picked.widths)
    facts = {"budget": picked.budget.text, "method": picked.method, "retrained": False, "search_loss": score.loss}
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
class _Search:
    """A search of a run, its own or a later one: what it was asked, and where its files are."""

    run: Path
    place: RunFolder
    config: RunConfig


@dataclass(frozen=True)
class _Point:
    step: int | None
    widths: Widths
    costs: Mapping[str, float]
    score: Score | None


def _find_search(run: Path, name: str, budget: Budget) -> _Search:
    """The search of that name, "" for the run's own; RunFolderError, with those that there are, if there is none."""
    own = read_config(run)  # refuses what is no run
    if not name:
        return _Search(run, RunFolder(run), own)
    known = sorted(path.parent.name for path in (run / SEARCHES).glob("*/search.json"))
    if name in known:
        return _Search(run, RunFolder(run / SEARCHES / name), read_search(run, name))
    told = [f"{each} ({', '.join(read_search(run, each).budget)})" for each in known]
    method = next((each for each in METHODS if name.startswith(each)), own.method)
    raise RunFolderError(
        f"No search {name!r} in {run / SEARCHES}; expected one of those that there are: {', '.join(told) or 'none'}. "
        f'Name one of them, or search first: autoslim search {run} --method {method} --budget "{budget.text}"'
    )


def _read_path(search: _Search) -> list[_Point]:
    """The widest network, and the network after each step; nothing where there are no steps."""
    steps = [Step.from_json(line) for line in search.place.lines(STEPS)]
    if not steps:
        return []
    graph = ChannelGraph.from_json(read_json(search.run / "graph.json", kind="ChannelGraph", version=2))
    widest = graph.max_widths()
    costs: dict[str, float] = {name: int(make_cost(name, graph)(widest)) for name in COSTS}
    narrower = [_Point(step.step, step.widths, step.costs, Score(step.loss, step.accuracy)) for step in steps]
    return [_Point(0, widest, costs, None), *narrower]


def _read_network(search: _Search, budget: Budget) -> list[_Point]:
    """The network that was found for this very budget, where there is no path."""
    method, place = search.config.method, search.place.path
    again = f'autoslim search {search.run} --method {method} --budget "{budget.text}"'
    if place == search.run:
        raise RunFolderError(
            f"`{STEPS}` in {place} has no steps; expected the path of a search that goes down one (greedy). Its own "
            f"networks are in {place / 'models'}, once it has ended. For another one search, and pick it by --search: "
            f"{again}"
        )
    found = read_found(search.place)
    if found is None:
        raise RunFolderError(
            f"`found.json` is missing in {place}; expected a search that has ended. Go on with the command that began "
            f"it (autoslim search {search.run} --method {method} ...)."
        )
    for each in found:
        if set(each.budget.limits) == set(budget.limits):
            return [_Point(None, each.widths, each.costs, each.score)]
    raise BudgetError(
        f"Budget {budget.text!r}: the search {place.name} left no path, and was asked for "
        f"{', '.join(each.budget.text for each in found)}; expected one of these. Search for it: {again}"
    )


def _read_base(folder: Path, data: Any) -> dict[str, float]:
    """The costs of the network as given: from the summary, or anew where the run has not got so far."""
    if not (folder / "summary.json").exists():
        return reopen_job(folder, shown=Shown(quiet=True), data=data).base
    base = read_json(folder / "summary.json", kind="Summary", versions=(1, 2))["base"]
    return {name: value for name, value in base.items() if isinstance(value, (int, float))}


def _first(
    budget: Budget, method: str, points: Sequence[_Point], base: Mapping[str, float], *, measured: bool = False
) -> Picked:
    for point in points:
        if budget.holds(point.costs, base):
            return Picked(
                budget=budget, method=method, step=point.step, steps=points[-1].step, widths=point.widths,
                costs=point.costs, base=base, score=point.score, measured=measured,
            )  # fmt: skip
    end = {limit.metric: points[-1].costs[limit.metric] for limit in budget.limits}
    least = ", ".join(f"{metric} {say_cost(metric, cost)} ({cost / base[metric]:.1%})" for metric, cost in end.items())
    raise BudgetError(
        f"Budget {budget.text!r}: the search's path ends at {least}; expected a point that holds it. Allow more, or go "
        f'on from there: autoslim search RUN --budget "{budget.text}"'
    )


def _pick_measured(search: _Search, budget: Budget, points: Sequence[_Point], data: Any, shown: Shown) -> Picked:
    """With latencies as predicted there, and the picked one's as measured."""
    config = replace(search.config, budget=(budget.text,))
    job = open_search(search.run, config, search.place, shown=shown, data=data, trained=False)
    cost = job.costs[LATENCY]
    assert isinstance(cost, LatencyCost)
    while True:
        latencies = cost.many([point.widths for point in points]).tolist()
        priced = [
            replace(point, costs={**point.costs, LATENCY: latency})
            for point, latency in zip(points, latencies, strict=True)
        ]
        picked = _first(budget, config.method, priced, job.base, measured=True)
        if picked.widths in cost.measured:
            return picked
        (latency,) = cost.measure([picked.widths])
        shown.line(f"measure   predicted {picked.costs[LATENCY]:.3g} ms, measured {latency}")
        cost = cost.corrected({picked.widths: latency.median})
