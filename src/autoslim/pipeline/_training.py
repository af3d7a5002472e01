"""The trainings of a run: resumed where they were stopped, on all processes of the run."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from torch import nn

from autoslim.checkpoint import Checkpoints
from autoslim.run_folder import write_json
from autoslim.saved import save_tensors
from autoslim.train import Trained, train_network, train_supernet

if TYPE_CHECKING:
    from autoslim.pipeline._job import Job

FOLDER = "checkpoints"
_NO_MATTER = ("checkpoint_minutes",)  # settings that a training may go on with another value of


def train_whole_supernet(job: "Job") -> None:
    """Trains the supernet of a run, on train without the search images, and writes it."""
    config, loader = job.config.train, job.loader(job.train_split)
    checkpoints = checkpoints_of(job, "supernet")
    steps = len(loader) * config.epochs_supernet
    with job.timed("train"), job.seeded(), job.shown.bar("supernet", steps) as bar:
        trained = train_supernet(
            job.net,
            loader,
            config,
            task=job.task,
            seed=job.config.seed,
            runtime=job.fabric,
            on_step=lambda loss, done: bar.reach(done, steps, f"loss {loss:.3f}"),
            checkpoints=checkpoints,
        )
    save_tensors(job.supernet_path, job.model)
    kept = {"supernet_loss": trained.losses, "skipped_steps": trained.skipped}
    write_json(job.folder.path / "training.json", {"_type": "Training", "_version": 1, **kept})
    job.ranks.wait()  # all read the file
    checkpoints.remove()
    loss = f"summed loss {trained.losses[-1]:.3f}"
    job.shown.line(f"supernet  {config.epochs_supernet} epochs, {loss}{_skips(trained)}, {job.took('train')}")


def retrain_network(job: "Job", network: nn.Module, folder: str) -> tuple[Trained, Checkpoints]:
    """Trains a found network on all of train, in place; its checkpoints go once it is saved."""
    config, loader = job.config.train, job.loader(job.data.train)
    checkpoints = checkpoints_of(job, folder)
    steps = len(loader) * config.epochs_retrain
    with job.seeded(), job.shown.bar(f"retrain {folder}", steps) as bar:
        trained = train_network(
            network,
            loader,
            config,
            task=job.task,
            seed=job.config.seed,
            runtime=job.fabric,
            on_step=lambda loss, done: bar.reach(done, steps, f"loss {loss:.3f}"),
            checkpoints=checkpoints,
        )
    loss = f"loss {trained.losses[-1]:.3f}"
    job.shown.line(f"retrain   {folder}: {config.epochs_retrain} epochs, {loss}{_skips(trained)}")
    return trained, checkpoints


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
