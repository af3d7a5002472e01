"""How well does the supernet rank? Sub-networks trained alone, beside what the supernet says of them.

A search believes the supernet's order of sub-networks. Here a few are drawn at random, spread over the costs at which
the run searched, and each is trained alone for a short while. Kendall's tau tells how far the two orders agree: 1 is
the same order, 0 is no relation. The dearer network is mostly the better one, so MACs alone rank well too: the supernet
is worth its training where it does better than they do, and where it orders networks of about the same cost.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.pipeline import Alone, Job, reopen_job, train_alone
from autoslim.pipeline._reopen import load_supernet
from autoslim.progress import Shown
from autoslim.report import write_report
from autoslim.report.text import say_count
from autoslim.run_folder import read_json, write_json
from autoslim.search import Cost, Space
from autoslim.widths import Widths

STRATA = 4
_LINES, _RESULT = "trust.jsonl", "trust.json"
_LEAST = 4  # samples; fewer have no order worth telling
_MARGIN = 0.1  # how far beyond the budgets' networks, as a share of their MACs, samples are drawn
_TRIES = 200  # draws of a sample before its stratum is said to be empty
_DRAWS, _SEED = 1000, 0  # of the bootstrap


# Order --------------------------------------------------------------------------------------------------------------


def measure_order(
    x: Sequence[float], y: Sequence[float], strata: Sequence[int] | None = None, *, at: NDArray[np.int64] | None = None
) -> float:
    """Kendall's tau-b of two lists, over pairs within a stratum only where `strata` are given.

    Args:
        x: N numbers.
        y: N numbers.
        strata: The stratum of each; None: all pairs count.
        at: Positions to take instead of 0 ... N-1, repeated as often as they come (a bootstrap sample).

    Returns:
        From -1 to 1; not a number where no pair is left that differs in both.

    >>> measure_order([1, 2, 3, 4], [10, 20, 40, 30])
    0.6666666666666666
    """
    index = np.arange(len(x)) if at is None else at
    counted = np.ones((len(index), len(index)), dtype=bool)
    if strata is not None:
        stratum = np.asarray(strata)[index]
        counted = stratum[:, None] == stratum[None, :]
    signs = [
        np.sign(v[:, None] - v[None, :]) * counted for v in (np.asarray(v, dtype=np.float64)[index] for v in (x, y))
    ]
    pairs = np.sqrt(np.abs(signs[0]).sum() * np.abs(signs[1]).sum())
    return float((signs[0] * signs[1]).sum() / pairs) if pairs > 0 else float("nan")


@dataclass(frozen=True)
class Order:
    """A tau and its 95% bootstrap interval, over all pairs and over those of like cost; None where there is no pair."""

    tau: float | None
    low: float | None
    high: float | None
    within: float | None
    within_low: float | None
    within_high: float | None


def bootstrap_order(x: Sequence[float], y: Sequence[float], strata: Sequence[int]) -> Order:
    """Tau of x against y, with percentile intervals over samples drawn again, within their strata."""
    draws = _draw_again(strata)
    numbers: list[float] = []
    for groups in (None, strata):
        again = np.array([measure_order(x, y, groups, at=at) for at in draws])
        numbers += [measure_order(x, y, groups), *_interval(again)]
    return Order(*(float(value) if np.isfinite(value) else None for value in numbers))


def bootstrap_gain(
    x: Sequence[float], rival: Sequence[float], y: Sequence[float], strata: Sequence[int]
) -> tuple[float, float, float]:
    """By how much x orders y better than `rival` does: the difference of their taus, and its 95% interval."""
    draws = _draw_again(strata)
    again = np.array([measure_order(x, y, at=at) - measure_order(rival, y, at=at) for at in draws])
    low, high = _interval(again)
    return measure_order(x, y) - measure_order(rival, y), low, high


def _draw_again(strata: Sequence[int]) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(_SEED)
    groups = [np.flatnonzero(np.asarray(strata) == stratum) for stratum in dict.fromkeys(strata)]
    return [np.concatenate([rng.choice(group, len(group)) for group in groups]) for _ in range(_DRAWS)]


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if len(known) else (np.nan, np.nan)


# Samples ------------------------------------------------------------------------------------------------------------


def draw_samples(space: Space, cost: Cost, low: float, high: float, num: int, *, seed: int) -> list[tuple[int, Widths]]:
    """Different sub-networks with their stratum: the costs from `low` to `high`, cut into STRATA equal parts, in turn.

    The first ones are the same however many are asked for.

    Raises:
        BudgetError: No further sub-network of such a cost was found.
    """
    edges = np.linspace(low, high, STRATA + 1).tolist()
    drawn: dict[Widths, int] = {}
    for number in range(num):
        stratum = number % STRATA
        rng = random.Random(f"{seed}/{number}")
        for _ in range(_TRIES):
            widths = _walk(space, cost, rng.uniform(edges[stratum], edges[stratum + 1]), rng)
            if edges[stratum] <= cost(widths) <= edges[stratum + 1] and widths not in drawn:
                drawn[widths] = stratum
                break
        else:
            raise BudgetError(
                f"Sample {number + 1} of {num}: no further sub-network between {edges[stratum]:.4g} and "
                f"{edges[stratum + 1]:.4g} MACs in {_TRIES} draws. Expected more choice of widths. Ask for fewer "
                "samples, or give the run's budgets more room."
            )
    return [(stratum, widths) for widths, stratum in drawn.items()]


def _walk(space: Space, cost: Cost, aim: float, rng: random.Random) -> Widths:
    """Random widths, then random groups a candidate narrower, or wider, until the cost has passed `aim`."""
    widths = space.widest.replace({group: rng.choice(space.candidates[group]) for group in space.free})
    above = cost(widths) > aim
    end, step = (0, -1) if above else (-1, 1)
    while (cost(widths) > aim) == above:
        groups = [group for group in space.free if widths[group] != space.candidates[group][end]]
        if not groups:
            break
        group = rng.choice(groups)
        candidates = space.candidates[group]
        widths = widths.replace({group: candidates[candidates.index(widths[group]) + step]})
    return widths


# The measurement ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One sub-network: what it costs, and its worth alone and in the supernet, on search images.

    The accuracies are the task's metric, more being better (`autoslim.tasks.Metric`).
    """

    sample: int
    stratum: int
    epochs: int
    macs: float
    alone_loss: float
    alone_accuracy: float
    supernet_loss: float
    supernet_accuracy: float
    image_macs: float
    widths: Mapping[str, int]


def measure_trust(
    folder: str | Path, *, samples: int = 12, epochs: int = 0, data: Any = None, shown: Shown | None = None
) -> dict[str, Any]:
    """Trains samples alone and compares their order with the supernet's; also writes `trust.json` and the report.

    Each sample is a line of `trust.jsonl`: what was stopped goes on there, and more samples may be asked for later.

    Args:
        folder: Of a finished run.
        samples: How many sub-networks; 4 or more.
        epochs: Each is trained alone; 0: a quarter of those of the retraining.
        data: What the run was given in Python, once more.
        shown: Where progress goes.

    Returns:
        What `trust.json` holds: under "orders" an `Order` against the accuracy alone, of the supernet's loss and
        accuracy and of MACs; under "gain" how much better than MACs the supernet's loss orders. Accuracy is the task's
        metric, which is named under "metric" where it is another.

    Raises:
        ConfigError: Too few samples or epochs.
        RunFolderError: The run is not finished, its supernet is gone, or `trust.jsonl` holds other samples.
        BudgetError: There are not so many sub-networks of such a cost.
    """
    if samples < _LEAST or epochs < 0:
        raise ConfigError(
            f"measure_trust: {samples} samples, {epochs} epochs; expected {_LEAST} samples or more, and 1 epoch or "
            "more (0: a quarter of the retraining's). Write for instance --samples 12."
        )
    path = Path(folder)
    rows = read_json(path / "summary.json", kind="Summary", versions=(1, 2))["budgets"]
    job = reopen_job(path, shown=shown or Shown(quiet=True), data=data)
    if job.config.retrain == "none":  # alone means from scratch
        job.config = replace(job.config, retrain="scratch")
    load_supernet(job)
    epochs = epochs or max(1, job.config.train.epochs_retrain // 4)
    cost = job.costs["macs"]
    low = max(cost(job.space.narrowest), (1 - _MARGIN) * min(row["macs"] for row in rows))
    high = min(cost(job.space.widest), (1 + _MARGIN) * max(row["macs"] for row in rows))
    drawn = draw_samples(job.space, cost, low, high, samples, seed=job.config.seed)
    with job.folder.held():
        lines = job.folder.lines(_LINES)
        taken = [
            _take(job, number, stratum, widths, epochs, lines[number] if number < len(lines) else None)
            for number, (stratum, widths) in enumerate(drawn)
        ]
    trust = summarise(taken, macs=(low, high), images=len(job.search_split))
    trust |= {} if job.task.metric.key == "accuracy" else {"metric": job.task.metric.name}
    write_json(path / _RESULT, trust)
    write_report(path)
    return trust


def _take(job: Job, number: int, stratum: int, widths: Widths, epochs: int, line: Mapping[str, Any] | None) -> Sample:
    """One sample measured, or the line that an earlier session left of it."""
    if line is not None:
        sample = Sample(**{name: value for name, value in line.items() if name not in ("_type", "_version")})
        if (sample.widths, sample.epochs, sample.stratum) != (dict(widths), epochs, stratum):
            raise RunFolderError(
                f"`{_LINES}` in {job.folder.path}, line {number + 1}, holds another sample or {sample.epochs} epochs; "
                f"expected {epochs} epochs of the sample that this run draws. Give --epochs {sample.epochs}, or delete "
                "the file to measure anew."
            )
        return sample
    started = time.monotonic()
    score = job.scorer.score(widths)
    macs = job.costs["macs"](widths)

    def sample_of(alone: Alone) -> Sample:
        scores = (alone.loss, alone.accuracy, score.loss, score.accuracy)
        return Sample(number, stratum, epochs, macs, *scores, alone.image_macs, dict(widths))

    def keep(alone: Alone) -> None:
        job.folder.append(_LINES, {"_type": "TrustSample", "_version": 1, **asdict(sample_of(alone))})

    alone = train_alone(job, widths, epochs, name=f"sample {number + 1}", keep=keep)
    sample = sample_of(alone)
    job.folder.append("times.jsonl", {"trust_sample": number, "trust_seconds": round(time.monotonic() - started, 3)})
    tell = job.task.metric.tell
    job.shown.line(f"sample    {number + 1}: {say_count(macs)} MACs, {tell(score.accuracy, 1)} in the supernet, "
                   f"{tell(alone.accuracy, 1)} alone")  # fmt: skip
    return sample


def summarise(samples: Sequence[Sample], *, macs: tuple[float, float], images: int) -> dict[str, Any]:
    """The content of `trust.json`.

    Args:
        samples: At least two.
        macs: The range that they were drawn from.
        images: How many judged each network alone.
    """
    strata = [sample.stratum for sample in samples]
    alone = [sample.alone_accuracy for sample in samples]
    said = {
        "loss": [-sample.supernet_loss for sample in samples],
        "accuracy": [sample.supernet_accuracy for sample in samples],
        "macs": [sample.macs for sample in samples],
    }
    gain = bootstrap_gain(said["loss"], said["macs"], alone, strata)
    return {
        "_type": "Trust", "_version": 1, "samples": len(samples), "epochs": samples[0].epochs, "images": images,
        "macs": list(macs), "strata": STRATA,
        "orders": {name: asdict(bootstrap_order(values, alone, strata)) for name, values in said.items()},
        "gain": [value if np.isfinite(value) else None for value in gain],
        "image_macs": sum(sample.image_macs for sample in samples),
        "points": [asdict(sample) for sample in samples],
    }  # fmt: skip
