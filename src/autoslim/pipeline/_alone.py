"""One sub-network trained alone for a short while, and judged on the search images: what finalists and trust share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoslim.pipeline._job import Job
from autoslim.pipeline._training import checkpoints_of, train_found
from autoslim.score import evaluate
from autoslim.widths import Widths

_TRAINING = 3  # a training step costs a forward pass, and a backward pass of about two


@dataclass(frozen=True)
class Alone:
    """How a network that was trained alone did on the search images.

    Attributes:
        epochs: It was trained for.
        loss: The mean over the images.
        metrics: The task's metric of each image, in their order, more being better: for accuracy 1 where it was right,
            else 0. Where the metric is no mean over images, the loss of each with its sign turned.
        image_macs: Multiply-accumulates spent, training and judging: a training image counts three forward passes.
        whole: The metric, where it is no mean over images.
    """

    epochs: int
    loss: float
    metrics: tuple[float, ...]
    image_macs: float
    whole: float | None = None

    @property
    def accuracy(self) -> float:
        """The task's metric, more being better."""
        return sum(self.metrics) / len(self.metrics) if self.whole is None else self.whole

    def to_json(self) -> dict[str, Any]:
        whole = [int(value) if value == int(value) else value for value in self.metrics]
        told = {name: value for name, value in vars(self).items() if value is not None}
        return {**told, "accuracy": self.accuracy, "metrics": whole}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Alone":
        """The inverse of `to_json`; other fields are passed over."""
        metrics = tuple(map(float, data["metrics"]))
        return cls(int(data["epochs"]), data["loss"], metrics, data["image_macs"], data.get("whole"))


def train_alone(job: Job, widths: Widths, epochs: int, *, name: str, keep: Callable[[Alone], None]) -> Alone:
    """Trains one sub-network as its retraining would, but shorter and on train without the search images.

    Start weights, order of images and learning rates (a whole schedule that ends at 0) follow from the run's seed, so
    two networks differ in their widths alone.

    Args:
        job: A prepared run with its supernet.
        widths: The sub-network.
        epochs: Of its schedule.
        name: What the progress bar calls it.
        keep: Puts the result on the disk, before what the training has left there is removed.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    config = replace(job.config.train, epochs_retrain=epochs)
    small = job.start(widths)
    loader = job.loader(job.train_split)
    kept = checkpoints_of(job, f"alone/{epochs}/{widths.digest}")
    train_found(job, small, loader, config, name=name, checkpoints=kept)
    judged = evaluate(small, job.batches(job.search_split), job.task)
    trained = len(loader) * loader.batch_size * epochs
    spent = job.costs["macs"](widths) * (_TRAINING * trained + len(judged))
    score = judged.score
    if judged.facts is not None:
        alone = Alone(epochs, score.loss, tuple((-judged.loss).tolist()), spent, score.accuracy)
    else:
        alone = Alone(epochs, score.loss, tuple(judged.accuracy.tolist()), spent)
    keep(alone)
    kept.remove()
    return alone
