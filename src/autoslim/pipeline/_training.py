"""The trainings of a run: resumed where they were stopped, on all processes of the run."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from torch import nn

from autoslim.checkpoint import Checkpoints
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._job import Job
from autoslim.pipeline._launch import check_precision, scaler_of
from autoslim.pipeline._track import check_tracker, open_tracker
from autoslim.run_folder import write_json
from autoslim.saved import load_tensors_, save_tensors
from autoslim.train import Loader, TrainConfig, Trained, train_network, train_supernet

CHECKPOINTS = "checkpoints"
_LEARNT = 0.98  # of the first epoch's loss: above that nothing was learnt
_NO_MATTER = ("checkpoint_minutes", "cuda_graph")  # settings that a training may go on with another value of


def obtain_supernet(job: Job) -> None:
    """Stage 2: trains all sub-networks in one, on train without the search images; one that is there is only read."""
    if job.supernet_path.exists():
        load_tensors_(job.supernet_path, job.model)
        job.place(job.net)
    else:
        _train_supernet(job)
    job.trained = True


def _train_supernet(job: Job) -> None:
    config, loader = job.config.train, job.loader(job.train_split)
    checkpoints = checkpoints_of(job, "supernet")
    with job.timed("train"), _watched(job, "supernet", len(loader) * config.epochs_supernet, "supernet") as watched:
        trained = train_supernet(job.net, loader, config, checkpoints=checkpoints, **watched)
    kept = {"supernet_loss": trained.losses, "skipped_steps": trained.skipped}
    write_json(job.folder.path / "training.json", {"_type": "Training", "_version": 1, **kept})
    save_tensors(job.supernet_path, job.model)  # last: where it is, the stage has ended
    job.ranks.wait()  # all read the file
    checkpoints.remove()
    loss = f"summed loss {trained.losses[-1]:.3f}"
    job.shown.line(f"supernet  {config.epochs_supernet} epochs, {loss}{_doubts(trained)}, {job.took('train')}")


def retrain_network(job: Job, network: nn.Module, folder: str) -> tuple[Trained, Checkpoints]:
    """Trains a found network on all of train, in place; its checkpoints go once it is saved."""
    config, loader, started = job.config.train, job.loader(job.data.train), time.monotonic()
    checkpoints = checkpoints_of(job, folder)
    trained = train_found(job, network, loader, config, name=f"retrain {folder}", checkpoints=checkpoints, stage=folder)
    told = f"loss {trained.losses[-1]:.3f}{_doubts(trained)}, {time.monotonic() - started:.0f} s"
    job.shown.line(f"retrain   {folder}: {config.epochs_retrain} epochs, {told}")
    return trained, checkpoints


def train_found(
    job: Job,
    network: nn.Module,
    loader: Loader,
    config: TrainConfig,
    *,
    name: str,
    checkpoints: Checkpoints,
    stage: str = "",
) -> Trained:
    """Trains a found network alone, in place; `name` is what its bar says, `stage` where its figures go, if given."""
    with _watched(job, name, len(loader) * config.epochs_retrain, stage) as watched:
        return train_network(network, loader, config, checkpoints=checkpoints, **watched)


def check_training(config: RunConfig) -> None:
    """Raises ConfigError for a precision that this machine has not, or a tracker that is not installed."""
    check_tracker(config.tracker)
    check_precision(config.train.precision)


@contextmanager
def _watched(job: Job, name: str, steps: int, stage: str) -> Generator[dict[str, Any], None, None]:
    """What all trainings of a run have in common: a bar, a tracker; the caller's random state is left as it was."""
    tracker = job.config.tracker if job.ranks.first and stage else "none"
    with (
        job.seeded(),
        open_tracker(tracker, job.folder.path, stage, job.shown.line) as figures,
        job.shown.bar(name, steps) as bar,
    ):

        def on_step(loss: float, done: int) -> None:
            bar.reach(done, steps, f"loss {loss:.3f}")
            job.on_step(loss, done)

        yield {
            "task": job.task,
            "seed": job.config.seed,
            "runtime": job.fabric,
            "on_step": on_step,
            "tracker": figures,
            "scaler": scaler_of(job.fabric),
        }


def checkpoints_of(job: Job, training: str) -> Checkpoints:
    """Where a training of the run keeps its state."""
    settings = {name: value for name, value in asdict(job.config.train).items() if name not in _NO_MATTER}
    identity = {"training": training, **job.identity, "seed": job.config.seed, "settings": settings}
    return Checkpoints(
        job.folder.path / CHECKPOINTS / training.replace("/", "-"),
        identity,
        minutes=job.config.train.checkpoint_minutes,
        tell=lambda text: job.shown.line(f"resume    {training}: {text}"),
    )


def _doubts(trained: Trained) -> str:
    """What should worry whoever reads the loss of the last epoch."""
    told = f", {trained.skipped} steps skipped (not finite)" if trained.skipped else ""
    first, last = trained.losses[0], trained.losses[-1]
    if len(trained.losses) > 1 and last > _LEARNT * first:
        told += f" (no less than the {first:.3f} of the first epoch: try a lower --lr, or more epochs)"
    return told
