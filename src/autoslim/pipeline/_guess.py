"""Accuracies that say nothing: at or near what guessing gives, on so many images."""

import math
from collections.abc import Mapping

from autoslim.pipeline._job import Job

_ERRORS = 2  # standard errors above the mean of guessing: 2 of 100 guesses get there


def is_guess(accuracy: float, *, images: int, classes: int) -> bool:
    """Whether guessing among so many classes gives such an accuracy on so many images.

    >>> is_guess(0.33, images=36, classes=3), is_guess(0.6, images=36, classes=3), is_guess(0.6, images=14, classes=3)
    (True, False, False)
    """
    chance = 1 / classes
    return accuracy <= chance + _ERRORS * math.sqrt(chance * (1 - chance) / images)


def tell_widest(job: Job) -> None:
    """Scores the widest network of a trained supernet, and tells if guessing does as well."""
    score = job.fresh_scorer.score(job.space.widest)
    _tell(job, {"the widest network in the supernet": score.accuracy}, images=len(job.judges), kind="search")


def tell_tested(job: Job, tested: Mapping[str, float | None]) -> None:
    """Tells of networks, by their folder, that are no better on the test images than guessing is."""
    worth = {f"models/{slug}": accuracy for slug, accuracy in tested.items() if accuracy is not None}
    _tell(job, worth, images=len(job.data.test), kind="test")


def _tell(job: Job, worth: Mapping[str, float], *, images: int, kind: str) -> None:
    """In a line and a note of the report."""
    classes = len(job.data.classes)
    if job.config.task != "classification" or classes < 2:
        return
    odd = [name for name, accuracy in worth.items() if is_guess(accuracy, images=images, classes=classes)]
    if odd:
        told = ", ".join(f"{worth[name]:.1%} of {name}" for name in odd)
        job.notes.append(
            f"{told} on {images} {kind} images is what guessing among {classes} classes gives: give more epochs, "
            "another --lr or more images, and check the labels."
        )
        job.shown.line(f"{kind:<10}{job.notes[-1]}")
