"""Scores that outlive the process: a sub-network that was scored whole is not scored again."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoslim.data import Encoded, Split
from autoslim.run_folder import RunFolder
from autoslim.score import SupernetScorer
from autoslim.search import Cost, Referee, Sample, Score
from autoslim.widths import Widths

_FILE, _TYPE, _VERSION = "scores.jsonl", "Score", 1


class Remembered:
    """A scorer that keeps every whole score in `scores.jsonl` of the run, a line each, on the disk before the next.

    So a method that asks for whole scores only, and always for the same ones, goes on where it was stopped, and
    searches on one supernet share what they learn. A race's samples are not kept.

    Args:
        inner: What scores.
        folder: The run.
        key: Of all that a score depends on but the widths (`key_of`); lines of another key are passed over.
        images: Search images that a whole score takes.
        calibration: Train images that its BatchNorm statistics take.
        macs: Multiply-accumulates of a sub-network.

    Attributes:
        image_macs: Multiply-accumulates spent in this process, BatchNorm statistics and all.
    """

    def __init__(
        self, inner: SupernetScorer, folder: RunFolder, *, key: str, images: int, calibration: int, macs: Cost
    ) -> None:
        self._inner, self._folder, self._key, self._images = inner, folder, key, images
        self._calibration, self._macs = calibration, macs
        self._judged, self.image_macs = 0, 0.0
        self._known = {
            Widths(line["widths"]): Score(line["loss"], line["accuracy"])
            for line in folder.lines(_FILE)
            if (line.get("_type"), line.get("_version"), line.get("key")) == (_TYPE, _VERSION, key)
        }

    @property
    def evaluations(self) -> float:
        """Passes over all search images in this process; one that was broken off counts by its share."""
        return self._judged / self._images

    def score(self, widths: Widths) -> Score:
        return self.score_many([widths])[0]

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        """The scores of N sub-networks; those that are not known yet are found one by one, and kept."""
        for each in widths:
            if each not in self._known:
                score = self._inner.score(each)
                self._count(each, self._images)
                line = {"_type": _TYPE, "_version": _VERSION, "key": self._key, **vars(score), "widths": dict(each)}
                self._folder.append(_FILE, line)
                self._known[each] = score
        return [self._known[each] for each in widths]

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        """See `Scorer.samples`; nothing of it is kept."""
        samples = self._inner.samples(trials, base=base, referee=referee)
        for widths, sample in zip(trials, samples, strict=True):
            self._count(widths, len(sample))
        return samples

    def _count(self, widths: Widths, images: int) -> None:
        self._judged += images
        self.image_macs += (self._calibration + images) * self._macs(widths)


def key_of(supernet: Path, *splits: Split | Encoded) -> str:
    """A short digest of the supernet's file and of the images, in order, that its sub-networks are scored with."""
    digest = hashlib.sha256(supernet.read_bytes())
    for split in splits:
        for part in split.fingerprint():
            array = np.ascontiguousarray(part)
            digest.update(f"{array.dtype}, {array.shape}".encode())
            digest.update(array.data)
    return digest.hexdigest()[:16]
