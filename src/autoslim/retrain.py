"""The network in a model folder trained as its run trains what it finds: for one that was picked, or left untrained.

The trained weights take the place of those in the folder, and its `metrics.json` tells what the network is worth; so do
the summary and the report of the run, where the folder is one of its own.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoslim.errors import RunFolderError
from autoslim.pipeline import Job, check_training, reopen_job
from autoslim.pipeline._reopen import load_supernet
from autoslim.pipeline._summary import test_network
from autoslim.pipeline._training import retrain_network
from autoslim.progress import Shown
from autoslim.report import write_report
from autoslim.report.text import say_count
from autoslim.run_folder import read_json, write_json
from autoslim.saved import save_tensors
from autoslim.widths import Widths


def retrain_folder(
    run: str | Path, folder: str | Path, *, data: Any = None, shown: Shown | None = None
) -> dict[str, Any]:
    """Trains the network in a model folder with the recipe of its run, on all of train, and tests it.

    It starts as the run's own networks do: from scratch, or from the supernet's weights with `retrain="inherit"`; from
    scratch, too, where the run trained none. So it becomes bit for bit what the run would have made of it, on the same
    machine with as many processes. A training that was stopped goes on where it stood; a network that is trained
    already is only tested, once.

    Args:
        run: Folder of the run that the network was found in.
        folder: Of the network, as `extract_picked` writes it.
        data: What the run was given in Python, once more.
        shown: Where progress goes.

    Returns:
        What the folder's `metrics.json` holds then: costs, the loss of each epoch, accuracy on the test images.

    Raises:
        RunFolderError: The folder holds no network of this run, the supernet to start from is gone, or model or data
            have changed.
        TrainingError: The loss is no longer finite.
    """
    folder = Path(folder)
    widths = Widths.from_json(read_json(folder / "widths.json", kind="Widths"))
    before = _read_metrics(folder)  # by all processes of a run, before the first of them writes
    job = reopen_job(run, shown=shown, data=data)
    check_training(job.config)
    _check_network(job, folder, widths)
    trained, metric = bool(before.get("losses")), job.task.metric
    key = f"test_{metric.key}"
    if not trained:
        with job.timed("retrain picked"):
            _train(job, folder, widths)
    if not trained or key not in before:
        test_network(job, folder, job.batches(job.data.test))
        job.ranks.wait()
    metrics = _read_metrics(folder)
    _tell_summary(job, folder, metrics[key])
    macs = f"{say_count(metrics['macs'])} MACs ({metrics['macs'] / job.base['macs']:.1%})"
    own = job.folder.path / "models/base"
    beside = _read_metrics(own).get(key) if (own / "metrics.json").exists() else None
    told = "" if beside is None else f", your own network {metric.tell(metric.turn(beside))}"
    job.shown.line(f"test      {folder}: {metric.tell(metric.turn(metrics[key]))} at {macs}{told}")
    return metrics


def _train(job: Job, folder: Path, widths: Widths) -> None:
    if job.config.retrain == "none":
        job.config = replace(job.config, retrain="scratch")
    if job.config.retrain == "inherit":
        load_supernet(job)
    small = job.start(widths)
    trained, checkpoints = retrain_network(job, small, f"picked/{folder.resolve().name}-{widths.digest}")
    save_tensors(folder / "model.safetensors", small)
    told = {"retrained": True, "losses": trained.losses, "skipped_steps": trained.skipped}
    write_json(folder / "metrics.json", {**_read_metrics(folder), **told})  # last: where they are, it is trained
    checkpoints.remove()


def _tell_summary(job: Job, folder: Path, worth: float) -> None:
    """Where the network is one that the run has found, its summary and report tell how it does, too."""
    file = job.folder.path / "summary.json"
    if not job.ranks.first or not file.exists():
        return
    summary, key = read_json(file, kind="Summary", versions=(1, 2)), job.task.metric.key
    for row in summary["budgets"]:
        if (job.folder.path / row["folder"]).resolve() == folder.resolve():
            row[key]["test"] = worth
            write_json(file, summary)
            job.shown.line(f"report    {write_report(job.folder.path)}")


def _read_metrics(folder: Path) -> dict[str, Any]:
    return read_json(folder / "metrics.json", kind="Metrics")


def _check_network(job: Job, folder: Path, widths: Widths) -> None:
    """Refuses a folder that says anything else than this run would write for these widths."""
    job.graph.check(widths)
    wanted = {"model": job.builder, **job.preparation, "attributes": job.graph.attributes(widths)}
    config = read_json(folder / "config.json", kind="SavedNetwork", version=2)
    odd = [name for name, value in json.loads(json.dumps(wanted)).items() if config.get(name) != value]
    if odd:
        raise RunFolderError(
            f"`config.json` in {folder} has another {odd[0]} than the networks of {job.folder.path}; expected one of "
            "that run. Give the run that it was picked from."
        )
