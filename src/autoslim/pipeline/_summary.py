"""Stage 5 of a run: the test images are read, once, and what is known of each network goes into the summary."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim.pipeline._guess import tell_tested
from autoslim.pipeline._job import Job
from autoslim.pipeline._latency import LATENCY
from autoslim.pipeline._task import summary_of
from autoslim.report.text import say_count
from autoslim.run_folder import read_json, write_json
from autoslim.saved import load
from autoslim.score import Batch, evaluate
from autoslim.search import Found

_STAGES = ("trace", "train", "search", "finalists", "retrain")


def sum_up(job: Job, found: Sequence[Found], places: Mapping[str, Path]) -> dict[str, Any]:
    """Tests all networks, and puts everything into the summary, as `summary.json` has it."""
    batches = job.batches(job.data.test)
    trained = job.config.retrain != "none"
    tested = {slug: test_network(job, path, batches) if trained else None for slug, path in places.items()}
    own, key = tested.get("base"), job.task.metric.key
    if own is not None:
        at = f"{say_count(job.base['macs'])} MACs"
        job.shown.line(f"test      your own network: {job.task.metric.tell(own)} at {at}")
    rows: list[dict[str, Any]] = []
    for each in found:
        slug = each.budget.slug
        supernet = job.fresh_scorer.judge(each.widths, batches)
        worth = {"search": each.score.accuracy, "supernet": supernet.accuracy, "test": tested[slug]}
        row: dict[str, Any] = {"budget": each.budget.text, "folder": f"models/{slug}", "widths": dict(each.widths)}
        row |= {**job.price(each.widths), key: _turned(job, worth)}
        if f"{slug}/uniform" in places:
            metrics = read_json(places[f"{slug}/uniform"] / "metrics.json", kind="Metrics")
            row["uniform"] = {
                **{name: metrics[name] for name in ("ratio", *job.costs)},
                **({"note": metrics["note"]} if "note" in metrics else {}),
                key: _turned(job, {"test": tested[f"{slug}/uniform"]}),
            }
        rows.append(row)
        _tell(job, row, worth, tested.get(f"{slug}/uniform"))
    tell_tested(job, tested)
    base: dict[str, Any] = {**job.base, key: _turned(job, {"test": own})}
    return _summary(job, base, rows)


def test_network(job: Job, path: Path, batches: Iterable[Batch]) -> float:
    """What a network as it lies on the disk is worth on the test images, kept in its `metrics.json`."""
    model = job.place(job.task.adapt(load(path)))
    score, key = evaluate(model, batches, job.task).score, f"test_{job.task.metric.key}"
    told = {"test_loss": score.loss, key: job.task.metric.turn(score.accuracy)}
    told |= {} if key == "test_accuracy" else {"metric": job.task.metric.name}
    write_json(path / "metrics.json", {**read_json(path / "metrics.json", kind="Metrics"), **told})
    return score.accuracy


def _turned(job: Job, worth: Mapping[str, float | None]) -> dict[str, float | None]:
    """The metric as people are told it, None where it is not known."""
    return {name: None if value is None else job.task.metric.turn(value) for name, value in worth.items()}


def _tell(job: Job, row: Mapping[str, Any], worth: Mapping[str, float | None], uniform: float | None) -> None:
    test, supernet, say = worth["test"], worth["supernet"], job.task.metric.tell
    assert supernet is not None
    told = say(test) if test is not None else f"{say(supernet)} (in the supernet)"
    beside = f", uniform {say(uniform)}" if uniform is not None else ""
    share = row["macs"] / job.base["macs"]
    latency = f", {row[LATENCY]:.3g} ms" if LATENCY in row else ""
    macs = f"{say_count(row['macs'])} MACs ({share:.1%})"
    job.shown.line(f"test      {row['budget']}: {told} at {macs}{latency}{beside}")


def _summary(job: Job, base: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    config = job.config
    packages = ("torch", "torchvision", "timm", "datasets", "lightning-fabric")
    seconds, (version, metric) = job.folder.seconds(), summary_of(job.task.metric)
    return {
        "_type": "Summary", "_version": version, "model": config.model, "data": config.data, "task": job.task.name,
        "metric": metric, "seed": config.seed, "input": [[1, *job.data.input_shape]], "base": base,
        "budgets": rows, "seconds": {s: seconds.get(s, 0.0) for s in _STAGES if s in seconds or s != "finalists"},
        "versions": {
            "autoslim": importlib.metadata.version("autoslim"), "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "command": job.command,
        "notes": [*job.data.notes, *job.graph.notes, *job.notes],
    }  # fmt: skip
