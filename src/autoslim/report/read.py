"""The report's input: summary.json, search.jsonl and graph.json of a run folder, checked and made into plain records.

Whatever is missing or not as expected raises RunFolderError with the file, the place in it, and what to do.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.errors import ModelError, RunFolderError, WidthsError
from autoslim.graph import ChannelGraph
from autoslim.tasks import Metric

METRICS = ("macs", "params", "memory")  # every run has them
MORE_METRICS = ("peak_memory", "latency")  # peak memory in newer runs, latency where a budget limits it
_ADVICE = "Give the folder of a finished run, or run again into it."


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the table. The task's metric is as people are told it, None where that stage was not run.

    Attributes:
        costs: Metric to cost, for every name in METRICS, and of MORE_METRICS those that are there.
        test: After (re)training, on test images.
        search: As a sub-network of the supernet, on search images.
        supernet: As a sub-network of the supernet, on test images.
    """

    costs: Mapping[str, float]
    test: float | None
    search: float | None = None
    supernet: float | None = None


@dataclass(frozen=True, kw_only=True)
class BudgetResult:
    """What was found for one budget; `metric` is the first metric that it limits, or else MACs.

    `uniform` is None where that baseline was not run; `ratio` is the width it gives all layers, `note` where it is not
    at the limit, and why.
    """

    budget: str
    metric: str
    folder: str
    widths: Mapping[str, int]
    slim: Network
    uniform: Network | None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """summary.json; optional lists are empty and an optional text is "" where absent. `scale` says what `metric` is."""

    model: str
    data: str
    task: str
    metric: str
    scale: Metric
    seed: str
    inputs: tuple[tuple[int, ...], ...]
    base: Network
    budgets: tuple[BudgetResult, ...]
    seconds: Mapping[str, float | None]
    versions: Mapping[str, str]
    command: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """An accepted step of the search: `group` went from `before` to `after` channels; costs and widths after it."""

    step: int
    group: str
    before: int
    after: int
    loss: float | None
    accuracy: float
    costs: Mapping[str, float]
    widths: Mapping[str, int]


@dataclass(frozen=True)
class _Node:
    """A value in a JSON file that knows where it stands, so that every complaint can say so."""

    file: Path
    where: str
    value: Any

    def error(self, expected: str) -> RunFolderError:
        found = "missing" if self.value is None else f"{str(self.value)[:60]!r} ({type(self.value).__name__})"
        return RunFolderError(f"`{self.file}`: {self.where} is {found}; expected {expected}. {_ADVICE}")

    def typed(self, name: str, *versions: int) -> "_Node":
        """Itself, if it is an object of type `name` and one of the versions, by default 1."""
        known = versions or (1,)
        told = (self.value.get("_type"), self.value.get("_version")) if isinstance(self.value, dict) else (None, None)
        if told[0] != name or told[1] not in known:
            raise self.error(f'a JSON object with "_type": "{name}" and "_version": {" or ".join(map(str, known))}')
        return self

    def at(self, key: str) -> "_Node":
        """The child of that name; absent and null are a node of value None."""
        if not isinstance(self.value, dict):
            raise self.error("a JSON object")
        inner = key if self.where in ("the file", "") else f"{self.where}.{key}"
        return _Node(self.file, inner, self.value.get(key))

    def each(self) -> "list[_Node]":
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [_Node(self.file, f"{self.where}[{index}]", value) for index, value in enumerate(self.value)]

    def fields(self) -> "dict[str, _Node]":
        if not isinstance(self.value, dict):
            raise self.error("a JSON object")
        return {str(key): self.at(key) for key in self.value}

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("a text")
        return self.value

    def whole(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error("a whole number")
        return self.value

    def number(self, low: float, high: float, expected: str) -> float:
        """A finite number in [low, high]."""
        value = self.value
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(expected)
        return float(value)

    def cost(self) -> float:
        return self.number(math.ulp(0.0), 1e300, "a number above 0")

    def finite(self) -> float | None:
        """A number, or None where it is not finite (a training that failed)."""
        value = self.value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error("a number")
        return float(value) if math.isfinite(value) else None

    def fraction(self) -> float | None:
        """A fraction from 0 to 1, or None where the stage was not run."""
        return None if self.value is None else self.number(0, 1, "a fraction from 0 to 1, or null where not run")

    def score(self, scale: Metric) -> float | None:
        """The task's metric as people are told it, None where the stage was not run."""
        if scale.share or self.value is None:
            return self.fraction()
        return self.number(-1e300, 1e300, "a finite number, or null where not run")

    def worth(self, scale: Metric) -> float:
        """The same from the number of which more is better, which the files of a search hold."""
        if scale.share and scale.higher:
            return self.number(0, 1, "a fraction from 0 to 1")
        low, high = (-1, 0) if scale.share else (-1e300, 1e300)
        return scale.turn(self.number(low, high, f"a number from {low:g} to {high:g}"))


def read_summary(file: Path) -> Summary:
    """Reads and checks summary.json."""
    node = _Node(file, "the file", _parse(file, _text(file))).typed("Summary", 1, 2)
    scale = _scale(node)
    base = _network(node.at("base"), scale)
    seconds, versions, notes, command = (node.at(key) for key in ("seconds", "versions", "notes", "command"))
    return Summary(
        **{key: node.at(key).text() for key in ("model", "data", "task")},
        metric=scale.name,
        scale=scale,
        seed=str(node.at("seed").whole()),
        inputs=tuple(tuple(size.whole() for size in shape.each()) for shape in node.at("input").each()),
        base=base,
        budgets=tuple(_budget(item, base, scale) for item in node.at("budgets").each()),
        seconds={
            stage: None if item.value is None else item.number(0, 1e300, "seconds, or null where not run")
            for stage, item in seconds.fields().items()
        },
        versions={name: str(item.value) for name, item in versions.fields().items()},
        command="" if command.value is None else command.text(),
        notes=() if notes.value is None else tuple(item.text() for item in notes.each()),
    )


def read_steps(file: Path, scale: Metric) -> tuple[Step, ...]:
    """Reads search.jsonl, a step a line; an empty file is a search that accepted no step. `scale` as in `Summary`."""
    steps: list[Step] = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if line.strip():
            where = f"line {number}"
            node = _Node(file, where, _parse(file, line, where)).typed("Step", 2)
            accuracy = node.at("accuracy").worth(scale)
            loss = node.at("loss").finite()
            counts = {key: node.at(key).whole() for key in ("step", "before", "after")}
            group, costs, widths = node.at("group").text(), _costs(node.at("costs")), _widths(node.at("widths"))
            steps.append(Step(group=group, accuracy=accuracy, loss=loss, costs=costs, widths=widths, **counts))
    return tuple(steps)


def read_graph(file: Path) -> ChannelGraph:
    """Reads graph.json."""
    node = _Node(file, "the file", _parse(file, _text(file))).typed("ChannelGraph", 2)
    try:
        return ChannelGraph.from_json(node.value)
    except (ModelError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"`{file}`: not a channel graph ({type(error).__name__}: {error}); expected what `ChannelGraph.to_json` "
            f"writes. {_ADVICE}"
        ) from error


def check_widths(
    graph: ChannelGraph, widths: Iterable[Mapping[str, int]], file: Path, where: str, *, first: int = 0
) -> None:
    """Raises RunFolderError unless widths fit the graph: both must come from one run. `where` has {} for a number."""
    for index, each in enumerate(widths, first):
        try:
            graph.check(each)
        except WidthsError as error:
            raise RunFolderError(
                f"`{file}`: {where.format(index)} do not fit the run's graph.json: {error} "
                f"Expected both files from one run. {_ADVICE}"
            ) from error


def _scale(node: _Node) -> Metric:
    """What the metric is: a name in version 1, whose metric is a share of which more is better."""
    if node.value["_version"] == 1:
        return Metric(node.at("metric").text())
    told = node.at("metric")
    flags = [told.at(name) for name in ("higher", "share")]
    for flag in flags:
        if not isinstance(flag.value, bool):
            raise flag.error("true or false")
    return Metric(told.at("name").text(), *(flag.value for flag in flags))


def _budget(node: _Node, base: Network, scale: Metric) -> BudgetResult:
    budget, beside = node.at("budget").text(), node.at("uniform")
    slim, uniform = _network(node, scale), None if beside.value is None else _network(beside, scale)
    metric = budget.split("<=")[0].strip().lower()
    told = all(metric in network.costs for network in (base, slim, uniform) if network is not None)
    ratio, note = (None if uniform is None else beside.at(name) for name in ("ratio", "note"))
    return BudgetResult(
        budget=budget,
        metric=metric if told else "macs",
        folder=node.at("folder").text(),
        widths=_widths(node.at("widths")),
        slim=slim,
        uniform=uniform,
        ratio=None if ratio is None or ratio.value is None else ratio.fraction(),
        note="" if note is None or note.value is None else note.text(),
    )


def _network(node: _Node, scale: Metric) -> Network:
    costs, accuracy = _costs(node), node.at("accuracy")
    score = node.at("score") if accuracy.value is None else accuracy
    if score.value is None:
        return Network(costs=costs, test=None)
    return Network(costs=costs, **{key: score.at(key).score(scale) for key in ("test", "search", "supernet")})


def _costs(node: _Node) -> dict[str, float]:
    return {name: node.at(name).cost() for name in METRICS} | {
        name: node.at(name).cost() for name in MORE_METRICS if node.at(name).value is not None
    }


def _widths(node: _Node) -> dict[str, int]:
    return {name: item.whole() for name, item in node.fields().items()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunFolderError(
            f"`{file}`: no such file; expected the {file.name} that a run leaves there. {_ADVICE}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"`{file}`: can't be read ({error}); expected a UTF-8 text file. {_ADVICE}") from error


def _parse(file: Path, text: str, where: str = "the file") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"`{file}`: {where} is not JSON ({error}); expected a JSON object. {_ADVICE}") from error
