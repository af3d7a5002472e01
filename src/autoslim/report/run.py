"""A whole run as the report reads it, and what of it the page's script draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoslim.costs import COSTS, make_cost
from autoslim.graph import ChannelGraph
from autoslim.report.extras import (
    Again,
    Curve,
    Latency,
    Mark,
    Scored,
    read_curves,
    read_latency,
    read_marks,
    read_scored,
    read_searches,
    read_settings,
)
from autoslim.report.read import Network, Step, Summary, check_widths, read_graph, read_steps, read_summary
from autoslim.report.text import METRIC_WORDS
from autoslim.report.trust import Ranking, read_ranking

_SCORED = 3000  # points beside the path that are drawn at most, spread evenly


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run folder tells; what is optional there is empty or None."""

    name: str
    summary: Summary
    steps: tuple[Step, ...]
    graph: ChannelGraph
    marks: tuple[Mark, ...]
    curves: tuple[Curve, ...]
    latency: Latency | None
    scored: tuple[Scored, ...]
    searches: tuple[Again, ...]
    settings: Mapping[str, str]
    ranking: Ranking | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The costs that this run tells of every network."""
        return tuple(name for name in METRIC_WORDS if name in self.summary.base.costs)

    def name_of(self, widths: Mapping[str, int]) -> str:
        """The budgets that a network was found for, or that it was found on the way."""
        budgets = [result.budget for result in self.summary.budgets if dict(result.widths) == dict(widths)]
        return ", ".join(budgets) or "found on the way"

    @property
    def is_path(self) -> bool:
        """Whether each step narrows the network before it: only then is the way between two steps a line."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return all(later.widths[name] <= width for one, later in pairs for name, width in one.widths.items())


def read_run(folder: Path) -> Run:
    """Reads and checks a run folder: summary.json, search.jsonl, graph.json, and what else is there.

    Raises:
        RunFolderError: One of the three files is missing, or any file is broken.
    """
    summary = read_summary(folder / "summary.json")
    steps = read_steps(folder / "search.jsonl", summary.scale)
    graph = read_graph(folder / "graph.json")
    found = [result.widths for result in summary.budgets]
    check_widths(graph, found, folder / "summary.json", "budgets[{}].widths")
    check_widths(graph, [step.widths for step in steps], folder / "search.jsonl", "line {}.widths", first=1)
    latency = read_latency(folder / "latency.json", graph)
    return Run(
        name=folder.resolve().name,
        summary=summary,
        steps=steps,
        graph=graph,
        marks=read_marks(folder, summary, graph),
        curves=read_curves(folder, summary),
        latency=latency,
        scored=read_scored(folder, graph, latency, summary.scale),
        searches=read_searches(folder, summary.scale),
        settings=read_settings(folder / "run.json"),
        ranking=read_ranking(folder, summary.scale),
    )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads several runs; folders of the same name are told apart by the folders that they lie in."""
    runs, places = [read_run(folder) for folder in folders], [folder.resolve().parts for folder in folders]
    names = [place[-1] for place in places]
    for depth in range(2, max((len(place) for place in places), default=0)):
        if len(set(names)) == len(names):
            break
        names = ["/".join(place[-depth:]) for place in places]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def drawn_data(run: Run) -> dict[str, Any]:
    """What the page's script draws of a run, as plain JSON."""
    summary, names = run.summary, [group.name for group in run.graph.groups]

    def row(widths: Mapping[str, int]) -> list[int]:
        return [widths[name] for name in names]

    return {
        "name": run.name,
        "metric": summary.metric,
        "share": summary.scale.share,
        "metrics": list(run.metrics),
        "base": dict(summary.base.costs),
        "groups": [{"name": g.name, "size": g.size, "frozen": g.frozen} for g in run.graph.groups],
        "steps": [_start(run, row(run.graph.max_widths()))]
        + [
            {
                **{"group": names.index(step.group) if step.group in names else -1, "from": step.before},
                **{"score": step.accuracy, "costs": dict(step.costs), "widths": row(step.widths)},
            }
            for step in run.steps
        ],
        "path": run.is_path,
        "marks": [{"name": mark.name, "budget": mark.budget, "widths": row(mark.widths)} for mark in run.marks],
        "found": [
            {
                **{"budget": r.budget, "widths": row(r.widths), "score": r.slim.search, "slim": _network(r.slim)},
                **{"uniform": _network(r.uniform) if r.uniform else None, "costs": dict(r.slim.costs)},
            }
            for r in summary.budgets
        ],
        "own": _network(summary.base),
        "scored": [
            {"score": one.accuracy, "costs": dict(one.costs)}
            for one in run.scored[:: max(1, -(-len(run.scored) // _SCORED))]
        ],
        "again": [
            {"name": f"{one.method}, {one.budget}", "score": one.accuracy, "costs": dict(one.costs)}
            for one in run.searches
        ],
        "curves": [
            {"name": curve.name, "kind": curve.kind, "budget": curve.budget, "losses": list(curve.losses)}
            for curve in run.curves
        ],
        "latency": None if run.latency is None else _latency(run, run.latency),
        "trust": None if run.ranking is None else _trust(run.ranking),
    }


def _start(run: Run, widths: list[int]) -> dict[str, Any]:
    """The network before the first step. Its latency is known where it is the user's own."""
    widest, base = run.graph.max_widths(), run.summary.base.costs
    costs = {name: make_cost(name, run.graph)(widest) for name in COSTS}
    if costs["macs"] == base["macs"] and "latency" in base:
        costs["latency"] = base["latency"]
    return {"group": -1, "from": 0, "score": None, "costs": costs, "widths": widths}


def _network(network: Network) -> dict[str, Any]:
    return {"costs": dict(network.costs), "test": network.test}


def _latency(run: Run, latency: Latency) -> dict[str, Any]:
    found = [
        {"name": run.name_of(widths), "budget": _budget_of(run, widths), "predicted": guess, "measured": ms}
        for widths, guess, ms in latency.found
    ]
    return {"pairs": [list(pair) for pair in latency.pairs], "found": found}


def _budget_of(run: Run, widths: Mapping[str, int]) -> int | None:
    """The first budget whose network this is; None for one that was measured on the way."""
    return next((i for i, r in enumerate(run.summary.budgets) if dict(r.widths) == dict(widths)), None)


def _trust(ranking: Ranking) -> dict[str, Any]:
    low, high = ranking.macs
    edges = [low + (high - low) * part / ranking.strata for part in range(ranking.strata + 1)]
    points = [{"stratum": p.stratum, "macs": p.macs, "supernet": p.supernet, "alone": p.alone} for p in ranking.points]
    return {"edges": edges, "points": points}
