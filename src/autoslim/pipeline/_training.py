"""The trainings of a run: resumed where they were stopped, on all processes of the run."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from torch import nn

from autoslim.checkpoint import Checkpoints
from autoslim.run_folder import write_json
from autoslim.saved import save_tensors
from autoslim.train import Loader, OnStep, TrainConfig, Trained, train_network, train_supernet

if TYPE_CHECKING:
    from autoslim.pipeline._job import Job

FOLDER = "checkpoints"
_NO_MATTER = ("checkpoint_minutes",)  # settings that a training may go on with another value of


def train_whole_supernet(job: "Job") -> None:
    """Trains the supernet of a run, on train without the search images, and writes it."""
    config, loader = job.config.train, job.loader(job.train_split)
    checkpoints = checkpoints_of(job, "supernet")
    with job.timed("train"), _watched(job, "supernet", len(loader) * config.epochs_supernet) as on_step:
        trained = train_supernet(
            job.net,
            loader,
            config,
            task=job.task,
            seed=job.config.seed,
            runtime=job.fabric,
            on_step=on_step,
            checkpoints=checkpoints,
        )
    kept = {"supernet_loss": trained.losses, "skipped_steps": trained.skipped}
    write_json(job.folder.path / "training.json", {"_type": "Training", "_version": 1, **kept})
    save_tensors(job.supernet_path, job.model)  # last: where it is, the stage has ended
    job.ranks.wait()  # all read the file
    checkpoints.remove()
    loss = f"summed loss {trained.losses[-1]:.3f}"
    job.shown.line(f"supernet  {config.epochs_supernet} epochs, {loss}{_skips(trained)}, {job.took('train')}")


def retrain_network(job: "Job", network: nn.Module, folder: str) -> tuple[Trained, Checkpoints]:
    """Trains a found network on all of train, in place; its checkpoints go once it is saved."""
    config, loader, started = job.config.train, job.loader(job.data.train), time.monotonic()
    checkpoints = checkpoints_of(job, folder)
    trained = train_found(job, network, loader, config, name=f"retrain {folder}", checkpoints=checkpoints)
    told = f"loss {trained.losses[-1]:.3f}{_skips(trained)}, {time.monotonic() - started:.0f} s"
    job.shown.line(f"retrain   {folder}: {config.epochs_retrain} epochs, {told}")
    return trained, checkpoints


def train_found(
    job: "Job",
    network: nn.Module,
    loader: Loader,
    config: TrainConfig,
    *,
    name: str,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Trains a found network alone, in place; `name` is what its progress bar says."""
    with _watched(job, name, len(loader) * config.epochs_retrain) as on_step:
        return train_network(
            network,
            loader,
            config,
            task=job.task,
            seed=job.config.seed,
            runtime=job.fabric,
            on_step=on_step,
            checkpoints=checkpoints,
        )


@contextmanager
def _watched(job: "Job", name: str, steps: int) -> Generator[OnStep, None, None]:
    """A training's progress bar; the caller's random state is left as it was."""
    with job.seeded(), job.shown.bar(name, steps) as bar:

        def tell(loss: float, done: int) -> None:
            bar.reach(done, steps, f"loss {loss:.3f}")
            job.on_step(loss, done)

        yield tell


def checkpoints_of(job: "Job", training: str) -> Checkpoints:
    """Where a training of the run keeps its state."""
    settings = {name: value for name, value in asdict(job.config.train).items() if name not in _NO_MATTER}
    identity = {"training": training, **job.identity, "seed": job.config.seed, "settings": settings}
    return Checkpoints(
        job.folder.path / FOLDER / training.replace("/", "-"),
        identity,
        minutes=job.config.train.checkpoint_minutes,
        tell=lambda text: job.shown.line(f"resume    {training}: {text}"),
    )


def _skips(trained: Trained) -> str:
    return f", {trained.skipped} steps skipped (not finite)" if trained.skipped else ""
