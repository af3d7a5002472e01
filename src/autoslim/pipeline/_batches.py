"""Batches for scoring and testing: in order, as they are, as often as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from autoslim.data import Loader
from autoslim.score import Batch


@dataclass(frozen=True)
class Prepared:
    """Batches that can be gone through again and again; the images stay bytes in memory, a quarter of the size."""

    loader: Loader
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.loader.epoch(0):
            yield images.to(self.device), labels.to(self.device)
