"""Finalists: the best networks of several methods, trained alone in rungs; the search images name the winner.

The supernet's ranking is a proxy: a lead of half a point in it may be gone after training alone. So for each budget
the found network, the uniform one and as many others as asked for compete by successive halving (Jamieson and
Talwalkar 2016): a rung trains all that are left, each rung twice as long as the one before, and keeps the better half.
Three choices:

- Each rung trains anew, with a whole learning-rate schedule: in the middle of a longer one, at a high learning rate,
  networks are told apart by noise more than by worth, and nothing but lines of results needs to survive a kill.
- Uniform is kept up to the last rung, where it meets the best of the others in the longest training.
- There the other one wins if its lead in accuracy, image by image, is more than one standard error. Otherwise they are
  tied, and uniform wins: whoever departs from it must be able to show why. So no winner is below uniform but by noise.
  A task whose metric is no mean over images has its lead in the loss of each image.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim.costs.latency import LatencyCost
from autoslim.errors import BudgetError, RunFolderError
from autoslim.pipeline._alone import Alone, train_alone
from autoslim.pipeline._job import Job
from autoslim.pipeline._latency import LATENCY, TABLE, keep_latency, obtain_latency
from autoslim.pipeline._rivals import rivals_of
from autoslim.pipeline._search import search_budgets
from autoslim.run_folder import RunFolder, read_json, write_json
from autoslim.search import Found, Method, Score, Uniform
from autoslim.tasks import Metric
from autoslim.widths import Widths

UNIFORM, FOUND = "uniform", "found"
_LINES, _ENROLLED, _SEARCHES = "finalists.jsonl", "finalists.json", "finalists"


@dataclass(frozen=True)
class Choice:
    """Who won, and how the last rung ended.

    Attributes:
        winner: The name of the network that is retrained.
        best: The best of the others in the last rung; `uniform` where there was none.
        lead: Its accuracy less uniform's; where the metric is no mean over images, uniform's loss less its own.
        error: The standard error of `lead`, over images.
        trained: All trainings on the way, by name and epochs.
    """

    winner: str
    best: str
    lead: float
    error: float
    trained: Mapping[tuple[str, int], Alone]


# Who wins -----------------------------------------------------------------------------------------------------------


def rungs_of(num: int, longest: int) -> list[tuple[int, int]]:
    """Networks and epochs of each rung: both halve, the last rung has two and trains the longest.

    >>> rungs_of(6, 16), rungs_of(2, 16), rungs_of(1, 16)
    ([(6, 4), (3, 8), (2, 16)], [(2, 16)], [])
    """
    sizes: list[int] = []
    while num > 1:
        sizes.append(num)
        num = 1 if num == 2 else math.ceil(num / 2)
    return [(size, max(1, longest >> (len(sizes) - 1 - rung))) for rung, size in enumerate(sizes)]


def halve(names: Sequence[str], longest: int, train: Callable[[str, int], Alone]) -> Choice:
    """Successive halving among `names`, uniform always with them.

    Args:
        names: Of the candidates; `UNIFORM` is one of them.
        longest: Epochs of the last rung.
        train: Trains a network alone for so many epochs; asked once for the same two.
    """
    left, trained = list(names), dict[tuple[str, int], Alone]()
    for size, epochs in rungs_of(len(names), longest):
        left = [*[name for name in left if name != UNIFORM][: size - 1], UNIFORM]
        for name in left:
            if (name, epochs) not in trained:
                trained[name, epochs] = train(name, epochs)
        rung = {name: trained[name, epochs] for name in left}
        left.sort(key=lambda name: (-rung[name].accuracy, rung[name].loss))
    best = next((name for name in left if name != UNIFORM), UNIFORM)
    if best == UNIFORM:
        return Choice(UNIFORM, best, 0.0, 0.0, trained)
    lead, error = compare_paired(trained[best, longest].metrics, trained[UNIFORM, longest].metrics)
    return Choice(best if lead > error else UNIFORM, best, lead, error, trained)


def compare_paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean difference over the same images, and its standard error; infinite for a single image.

    >>> compare_paired([1, 1, 0, 1], [0, 1, 0, 1])
    (0.25, 0.25)
    """
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return float(difference.mean()), float(error)


# Who competes -------------------------------------------------------------------------------------------------------


def list_rivals(job: Job) -> dict[str, Method]:
    """Those of a run, of which the first `finalists` - 2 compete, and more where they find the same."""
    return rivals_of(job.config.search, by_image=job.task.metric.whole is None, seed=job.config.seed)


def enroll(job: Job, found: Sequence[Found]) -> list[dict[str, Found]]:
    """The candidates of each budget by name, uniform first; kept in `finalists.json`.

    Where a rival found what another candidate is already, the next one comes in.
    """
    path = job.folder.path / _ENROLLED
    if not path.exists():
        rows: list[dict[str, Found]] = [{} for _ in found]
        _enter(rows, UNIFORM, _search(job, UNIFORM, Uniform()), job.config.finalists)
        _enter(rows, FOUND, found, job.config.finalists)
        for name, method in list_rivals(job).items():
            if all(len(row) == job.config.finalists for row in rows):
                break
            _enter(rows, name, _search(job, name, method), job.config.finalists)
        lines = [{name: _line(candidate) for name, candidate in row.items()} for row in rows]
        budgets = [{"budget": each.budget.text, "candidates": row} for each, row in zip(found, lines, strict=True)]
        write_json(path, {"_type": "Finalists", "_version": 1, "budgets": budgets})
        job.ranks.wait()
    saved = read_json(path, kind="Finalists")["budgets"]
    enrolled: list[dict[str, Found]] = []
    for each, row in zip(found, saved, strict=True):
        candidates = {name: _read(each, data) for name, data in row["candidates"].items()}
        if row["budget"] != each.budget.text or each.widths not in [other.widths for other in candidates.values()]:
            raise RunFolderError(
                f"`{_ENROLLED}` in {job.folder.path} does not hold what the search found for {each.budget.text!r}; "
                f"expected the candidates of this run. Delete it and `{_LINES}` to choose anew."
            )
        for name, other in candidates.items():
            if not each.budget.holds(other.costs, job.base):
                raise BudgetError(
                    f"Finalist {name!r} costs {dict(other.costs)}; expected no more than {each.budget.text!r} allows. "
                    "Choose fewer finalists, or repair that search method."
                )
        enrolled.append(candidates)
    cost = job.costs.get(LATENCY)
    if isinstance(cost, LatencyCost):  # what was measured for them, where it is limited, is what they cost from now on
        limited = [row for each, row in zip(found, enrolled, strict=True) if each.budget.measured]
        measured = {other.widths: other.costs[LATENCY] for row in limited for other in row.values()}
        job.costs[LATENCY] = cost.corrected(measured)
    return enrolled


def _search(job: Job, name: str, method: Method) -> Sequence[Found]:
    """Every budget's network of one method, searched in a folder of its own as the run's networks are.

    What is measured on the way corrects the latencies of this search alone, so that each is the same when resumed.
    """
    place, before = RunFolder(job.folder.path / _SEARCHES / re.sub("[^a-z]+", "-", name)), job.costs
    place.path.mkdir(parents=True, exist_ok=True)
    started, spent = time.monotonic(), job.scorer.image_macs
    job.costs = dict(before)
    try:
        if job.ranks.tell((place.path / TABLE).exists()):
            job.costs[LATENCY], _ = obtain_latency(job, place.path / TABLE, known=True)
        keep_latency(job, place)
        return search_budgets(job, place, method)
    finally:  # one that is broken off has cost that much, too
        job.costs, seconds = before, round(time.monotonic() - started, 3)
        told = {"search_seconds": seconds, "search_image_macs": job.scorer.image_macs - spent}
        job.folder.append("times.jsonl", {"finalists_search": name, **told})


def _enter(rows: Sequence[dict[str, Found]], name: str, column: Sequence[Found], most: int) -> None:
    """Adds what a method found to each budget's candidates, where it is none of them yet and they are not complete."""
    for row, found in zip(rows, column, strict=True):
        if len(row) < most and found.widths not in [other.widths for other in row.values()]:
            row[name] = found


def _line(found: Found) -> dict[str, Any]:
    return {"widths": dict(found.widths), "costs": dict(found.costs), **vars(found.score)}


def _read(found: Found, data: Mapping[str, Any]) -> Found:
    return Found(found.budget, Widths(data["widths"]), data["costs"], Score(data["loss"], data["accuracy"]))


# The stage ----------------------------------------------------------------------------------------------------------


def choose_finalists(job: Job, found: list[Found]) -> list[Found]:
    """The winner for each budget, a note of the job on each; without `finalists` what was found.

    Every training is a line of `finalists.jsonl`, every choice another; a stage that was stopped goes on after the
    last line and ends in the same file.

    Args:
        job: A run after its search.
        found: What the search found.
    """
    if not job.config.finalists:
        return found
    with job.timed("finalists"):
        winners = _choose(job, found)
    job.shown.line(f"finalists {job.took('finalists')}")
    return winners


def _choose(job: Job, found: Sequence[Found]) -> list[Found]:
    longest = job.config.finalist_epochs or max(1, job.config.train.epochs_retrain // 2)
    lines = job.folder.lines(_LINES)
    done = {(line["budget"], line["name"], line["epochs"]): line for line in lines if line["_type"] == "Finalist"}
    decided = {line["budget"] for line in lines if line["_type"] == "Choice"}
    winners: list[Found] = []
    for each, candidates in zip(found, enroll(job, found), strict=True):
        text = each.budget.text

        def train(name: str, epochs: int, text: str = text, candidates: Mapping[str, Found] = candidates) -> Alone:
            return _train(job, text, name, candidates[name].widths, epochs, done.get((text, name, epochs)))

        choice = halve(list(candidates), longest, train)
        if text not in decided:
            line = {"budget": text, "winner": choice.winner, "best": choice.best, "lead": choice.lead}
            line |= {"error": choice.error, **_spent(choice)}
            job.folder.append(_LINES, {"_type": "Choice", "_version": 1, **line})
        told = _tell(choice, list(candidates), job.task.metric)
        job.notes.append(f"Finalists for {text}: {told}")
        job.shown.line(f"finalists {text}: {told}")
        winners.append(candidates[choice.winner])
    searched = sum(line.get("search_image_macs", 0.0) for line in job.folder.lines("times.jsonl"))
    job.shown.line(f"finalists The other methods' searches: {searched:.3g} image-MACs.")
    return winners


def _train(job: Job, budget: str, name: str, widths: Widths, epochs: int, line: Mapping[str, Any] | None) -> Alone:
    """One training alone, or the line that an earlier session left of it."""
    if line is not None:
        if line["widths"] != dict(widths):
            raise RunFolderError(
                f"`{_LINES}` in {job.folder.path} holds other widths for {name!r} under {budget!r} than "
                f"`{_ENROLLED}`; expected the same. Delete both to choose anew."
            )
        return Alone.from_json(line)
    started = time.monotonic()

    def keep(alone: Alone) -> None:
        kind = {"_type": "Finalist", "_version": 1, "budget": budget, "name": name}
        job.folder.append(_LINES, {**kind, "widths": dict(widths), **alone.to_json()})

    alone = train_alone(job, widths, epochs, name=f"finalist {name}", keep=keep)
    seconds = round(time.monotonic() - started, 3)
    job.folder.append(
        "times.jsonl", {"finalist": name, "budget": budget, "epochs": epochs, "finalist_seconds": seconds}
    )
    return alone


def _spent(choice: Choice) -> dict[str, float]:
    trainings = choice.trained.values()
    return {"epochs": sum(a.epochs for a in trainings), "image_macs": sum(a.image_macs for a in trainings)}


def _tell(choice: Choice, names: Sequence[str], metric: Metric) -> str:
    if choice.best == UNIFORM:
        return f"all of {', '.join(names)} are one network; nothing was trained."
    spent = _spent(choice)
    unit = f"{metric.name}, " if metric.higher else f"{metric.name} less, "
    lead = f"{choice.lead:+.4g} {unit}standard error {choice.error:.4g}"
    if metric.whole is not None:
        lead = f"loss {-choice.lead:+.4g} on the same images, standard error {choice.error:.4g}"
    elif metric.share and metric.higher:
        lead = f"{100 * choice.lead:+.2f} points, standard error {100 * choice.error:.2f}"
    verdict = "within noise, so uniform is kept" if abs(choice.lead) <= choice.error else "more than noise"
    return (
        f"of {len(names)} trained alone, {choice.winner!r} wins. {choice.best!r} against {UNIFORM!r}: {lead}, "
        f"{verdict}. Spent {spent['epochs']} epochs, {spent['image_macs']:.3g} image-MACs."
    )
