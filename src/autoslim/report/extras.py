"""What a run folder may hold beside its three files: trainings, latencies, scores, other searches, settings.

Each is optional: a file that is not there gives an empty record, one that is broken raises RunFolderError.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoslim.costs import COSTS, make_cost
from autoslim.costs._base import atoms_of
from autoslim.costs.latency._fit import Fit, fit_latency
from autoslim.graph import ChannelGraph
from autoslim.report._json import Node, open_json, open_lines
from autoslim.report.read import Summary, check_widths
from autoslim.tasks import Metric

_FOLDS = 4  # each measured network is predicted from the other three quarters


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Widths to hold beside those of the search: your own network, or the uniform one of budget number `budget`."""

    name: str
    budget: int | None
    widths: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The mean loss of each epoch of one training; None where it was not finite. `budget` as in `Mark`."""

    name: str
    kind: str
    budget: int | None
    losses: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """latency.json: milliseconds, predicted and measured.

    Attributes:
        setting: Machine, runtime, threads, precision.
        pairs: Of the networks the prediction was made from, each predicted from others only.
        error: Median relative error over these pairs.
        found: Of the networks that the search found: widths, prediction, measurement.
        fit: Predicts other networks.
    """

    setting: Mapping[str, str]
    pairs: tuple[tuple[float, float], ...]
    error: float
    found: tuple[tuple[Mapping[str, int], float, float], ...]
    fit: Fit


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sub-network that was scored in the supernet, on search images, beside those of the search's own path.

    Its `accuracy` is the task's metric.
    """

    accuracy: float
    costs: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Again:
    """What a further search of the same supernet found for one budget."""

    search: str
    method: str
    budget: str
    accuracy: float
    costs: Mapping[str, float]


def read_marks(folder: Path, summary: Summary, graph: ChannelGraph) -> tuple[Mark, ...]:
    """The widths of the baselines, from the `widths.json` of their folders."""
    places: list[tuple[str, int | None, str]] = [("your network", None, "models/base")]
    places += [(f"uniform, {r.budget}", index, f"{r.folder}/uniform") for index, r in enumerate(summary.budgets)]
    marks: list[Mark] = []
    for name, budget, place in places:
        file = folder / place / "widths.json"
        if file.exists():
            widths = open_json(file, "Widths").at("widths").widths()
            check_widths(graph, [widths], file, "widths")
            marks.append(Mark(name=name, budget=budget, widths=widths))
    return tuple(marks)


def read_curves(folder: Path, summary: Summary) -> tuple[Curve, ...]:
    """The losses of the supernet (`training.json`), of your network and of what was retrained (`metrics.json`)."""
    places: list[tuple[str, str, int | None, Path, str]] = [
        ("supernet", "supernet", None, folder / "training.json", "Training"),
        ("your network", "base", None, folder / "models" / "base" / "metrics.json", "Metrics"),
    ]
    for index, result in enumerate(summary.budgets):
        place = folder / result.folder
        places.append((result.budget, "slim", index, place / "metrics.json", "Metrics"))
        places.append((f"uniform, {result.budget}", "uniform", index, place / "uniform" / "metrics.json", "Metrics"))
    curves: list[Curve] = []
    for name, kind, budget, file, type_ in places:
        if file.exists():
            losses = open_json(file, type_).at("supernet_loss" if kind == "supernet" else "losses")
            values = () if losses.value is None else tuple(item.finite() for item in losses.each())
            curves += [Curve(name=name, kind=kind, budget=budget, losses=values)] if values else []
    return tuple(curves)


def read_latency(file: Path, graph: ChannelGraph) -> Latency | None:
    """Measured networks with what the others predict for them; None where no latency was measured."""
    if not file.exists():
        return None
    node = open_json(file, "LatencyCost")
    rows, measured = node.at("rows").each(), node.at("measured").each()
    if not rows:
        raise node.at("rows").error("measured networks")
    names = [group.name for group in graph.groups]
    widths = [dict(zip(names, (item.whole() for item in row.at("widths").each()), strict=False)) for row in rows]
    check_widths(graph, widths, file, "rows[{}].widths")
    anchor = float(np.median([row.at("anchor").cost() for row in rows]))
    took = anchor * np.array([row.at("ratio").cost() for row in rows])
    atoms, fold = atoms_of(graph, widths), np.arange(len(rows)) % _FOLDS
    predicted = np.zeros(len(rows))
    for out in range(_FOLDS):
        predicted[fold == out] = fit_latency(graph, atoms[fold != out], took[fold != out]).predict(atoms[fold == out])
    fit = fit_latency(graph, atoms, took)
    found = [(item.at("widths").widths(), item.at("ms").cost()) for item in measured]
    check_widths(graph, [each for each, _ in found], file, "measured[{}].widths")
    said = fit.predict(atoms_of(graph, [each for each, _ in found])).tolist()
    return Latency(
        setting={name: str(item.value) for name, item in node.at("setting").fields().items() if name != "network"},
        pairs=tuple(zip(predicted.tolist(), took.tolist(), strict=True)),
        error=float(np.median(np.abs(predicted / took - 1))),
        found=tuple((each, guess, ms) for (each, ms), guess in zip(found, said, strict=True)),
        fit=fit,
    )


def read_scored(folder: Path, graph: ChannelGraph, latency: Latency | None, scale: Metric) -> tuple[Scored, ...]:
    """The sub-networks of `scores.jsonl`, once each, priced anew; a latency is the predicted one."""
    found: dict[tuple[int, ...], tuple[Mapping[str, int], float]] = {}
    for node in open_lines(folder / "scores.jsonl", "Score", growing=True):
        widths = node.at("widths").widths()
        check_widths(graph, [widths], node.file, f"{node.where}.widths")
        if node.at("accuracy").value is not None:
            found[tuple(widths.values())] = (widths, node.at("accuracy").worth(scale))
    if not found:
        return ()
    widths = [each for each, _ in found.values()]
    prices = {name: make_cost(name, graph).many(widths).tolist() for name in COSTS}
    if latency is not None:
        prices["latency"] = latency.fit.predict(atoms_of(graph, widths)).tolist()
    return tuple(
        Scored(accuracy=accuracy, costs={name: values[index] for name, values in prices.items()})
        for index, (_, accuracy) in enumerate(found.values())
    )


def read_searches(folder: Path, scale: Metric) -> tuple[Again, ...]:
    """What `autoslim search` found in this run, from `searches/*/found.json`."""
    found: list[Again] = []
    for file in sorted(folder.glob("searches/*/found.json")):
        node = open_json(file, "Found")
        for item in node.at("found").each():
            accuracy = item.at("accuracy").worth(scale)
            names = {"search": file.parent.name, "method": node.at("method").text(), "budget": item.at("budget").text()}
            found.append(Again(accuracy=accuracy, costs=item.at("costs").costs(), **names))
    return tuple(found)


def read_settings(file: Path) -> dict[str, str]:
    """The configuration in run.json, nested names joined by a dot; empty where the file is not there."""
    return dict(_flatten(open_json(file, "Run").at("config"), "")) if file.exists() else {}


def _flatten(node: Node, prefix: str) -> Iterator[tuple[str, str]]:
    for name, item in node.fields().items():
        if isinstance(item.value, dict):
            yield from _flatten(item, f"{prefix}{name}.")
        else:
            value = item.value
            told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", told
