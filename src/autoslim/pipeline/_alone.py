"""One sub-network trained alone for a short while, and judged on the search images: what finalists and trust share."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from autoslim.pipeline._training import checkpoints_of, train_found
from autoslim.score import evaluate
from autoslim.widths import Widths

if TYPE_CHECKING:
    from autoslim.pipeline._job import Job

_TRAINING = 3  # a training step costs a forward pass, and a backward pass of about two


@dataclass(frozen=True)
class Alone:
    """How a network that was trained alone did on the search images.

    Attributes:
        epochs: It was trained for.
        loss: The mean over the images.
        metrics: The task's metric of each image, in their order: for accuracy 1 where it was right, else 0.
        image_macs: Multiply-accumulates spent, training and judging: a training image counts three forward passes.
    """

    epochs: int
    loss: float
    metrics: tuple[float, ...]
    image_macs: float

    @property
    def accuracy(self) -> float:
        return sum(self.metrics) / len(self.metrics)

    def to_json(self) -> dict[str, Any]:
        whole = [int(value) if value == int(value) else value for value in self.metrics]
        return {**vars(self), "accuracy": self.accuracy, "metrics": whole}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Alone":
        """The inverse of `to_json`; other fields are passed over."""
        return cls(int(data["epochs"]), data["loss"], tuple(map(float, data["metrics"])), data["image_macs"])


def train_alone(job: "Job", widths: Widths, epochs: int, *, name: str) -> Alone:
    """Trains one sub-network as its retraining would, but shorter and on train without the search images.

    Start weights, order of images and learning rates (a whole schedule that ends at 0) follow from the run's seed, so
    two networks differ in their widths alone.

    Args:
        job: A prepared run with its supernet.
        widths: The sub-network.
        epochs: Of its schedule.
        name: What the progress bar calls it.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    config = replace(job.config.train, epochs_retrain=epochs)
    small = job.start(widths).to(job.fabric.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    loader = job.loader(job.train_split)
    digest = hashlib.sha256(repr(sorted(widths.items())).encode()).hexdigest()[:8]
    kept = checkpoints_of(job, f"alone/{epochs}/{digest}")
    train_found(job, small, loader, config, name=name, checkpoints=kept)
    judged = evaluate(small, job.batches(job.search_split), job.task)
    kept.remove()
    trained = len(loader) * loader.batch_size * epochs
    spent = job.costs["macs"](widths) * (_TRAINING * trained + len(judged))
    return Alone(epochs, judged.score.loss, tuple(judged.accuracy.tolist()), spent)
