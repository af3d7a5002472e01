"""The report's input: summary.json, search.jsonl and graph.json of a run folder, checked and made into plain records.

Whatever is missing or not as expected raises RunFolderError with the file, the place in it, and what to do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoslim.errors import ModelError, RunFolderError, WidthsError
from autoslim.graph import ChannelGraph
from autoslim.report._json import ADVICE, Node, open_json, open_lines
from autoslim.tasks import Metric


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the table. The task's metric is as people are told it, None where that stage was not run.

    Attributes:
        costs: Metric to cost, for MACs, parameters and memory, and for others that are there.
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


def read_summary(file: Path) -> Summary:
    """Reads and checks summary.json."""
    node = open_json(file, "Summary", 1, 2)
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
    for node in open_lines(file, "Step", 2):
        accuracy = node.at("accuracy").worth(scale)
        loss = node.at("loss").finite()
        counts = {key: node.at(key).whole() for key in ("step", "before", "after")}
        group, costs, widths = node.at("group").text(), node.at("costs").costs(), node.at("widths").widths()
        steps.append(Step(group=group, accuracy=accuracy, loss=loss, costs=costs, widths=widths, **counts))
    return tuple(steps)


def read_graph(file: Path) -> ChannelGraph:
    """Reads graph.json."""
    node = open_json(file, "ChannelGraph", 2)
    try:
        return ChannelGraph.from_json(node.value)
    except (ModelError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"`{file}`: not a channel graph ({type(error).__name__}: {error}); expected what `ChannelGraph.to_json` "
            f"writes. {ADVICE}"
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
                f"Expected both files from one run. {ADVICE}"
            ) from error


def _scale(node: Node) -> Metric:
    """What the metric is: a name in version 1, whose metric is a share of which more is better."""
    if node.value["_version"] == 1:
        return Metric(node.at("metric").text())
    told = node.at("metric")
    flags = [told.at(name) for name in ("higher", "share")]
    for flag in flags:
        if not isinstance(flag.value, bool):
            raise flag.error("true or false")
    return Metric(told.at("name").text(), *(flag.value for flag in flags))


def _budget(node: Node, base: Network, scale: Metric) -> BudgetResult:
    budget, beside = node.at("budget").text(), node.at("uniform")
    slim, uniform = _network(node, scale), None if beside.value is None else _network(beside, scale)
    metric = budget.split("<=")[0].strip().lower()
    told = all(metric in network.costs for network in (base, slim, uniform) if network is not None)
    ratio, note = (None if uniform is None else beside.at(name) for name in ("ratio", "note"))
    return BudgetResult(
        budget=budget,
        metric=metric if told else "macs",
        folder=node.at("folder").text(),
        widths=node.at("widths").widths(),
        slim=slim,
        uniform=uniform,
        ratio=None if ratio is None or ratio.value is None else ratio.fraction(),
        note="" if note is None or note.value is None else note.text(),
    )


def _network(node: Node, scale: Metric) -> Network:
    costs, accuracy = node.costs(), node.at("accuracy")
    score = node.at("score") if accuracy.value is None else accuracy
    if score.value is None:
        return Network(costs=costs, test=None)
    return Network(costs=costs, **{key: score.at(key).score(scale) for key in ("test", "search", "supernet")})
