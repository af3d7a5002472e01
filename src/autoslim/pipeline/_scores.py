"""Scores that outlive the process: a sub-network that was scored whole is not scored again."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from autoslim.data import Split
from autoslim.run_folder import RunFolder
from autoslim.score import Batch, SupernetScorer
from autoslim.search import Referee, Sample, Score
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
    """

    def __init__(self, inner: SupernetScorer, folder: RunFolder, *, key: str, images: int) -> None:
        self._inner, self._folder, self._key, self._images = inner, folder, key, images
        self._judged = 0
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
                self._judged += self._images
                line = {"_type": _TYPE, "_version": _VERSION, "key": self._key, **vars(score), "widths": dict(each)}
                self._folder.append(_FILE, line)
                self._known[each] = score
        return [self._known[each] for each in widths]

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        """See `Scorer.samples`; nothing of it is kept."""
        samples = self._inner.samples(trials, base=base, referee=referee)
        self._judged += sum(map(len, samples))
        return samples

    def judge(self, widths: Widths, batches: Iterable[Batch]) -> Score:
        """See `SupernetScorer.judge`."""
        return self._inner.judge(widths, batches)

    def buffers(self, widths: Widths) -> dict[str, torch.Tensor]:
        """See `SupernetScorer.buffers`."""
        return self._inner.buffers(widths)


def key_of(supernet: Path, *splits: Split) -> str:
    """A short digest of the supernet's file and of the images, in order, that its sub-networks are scored with."""
    digest = hashlib.sha256(supernet.read_bytes())
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
