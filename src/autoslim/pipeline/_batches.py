"""Batches for training, and for scoring and testing: in order, as they are, as often as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from autoslim.data import Data, Loader, Split
from autoslim.score import Batch
from autoslim.train import TrainConfig

_EVAL_BATCH = 250


@dataclass(frozen=True)
class Prepared:
    """Batches that can be gone through again and again; the images stay bytes in memory, a quarter of the size."""

    loader: Loader
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.loader.epoch(0):
            yield images.to(self.device), labels.to(self.device)


def training_batches(data: Data, split: Split, config: TrainConfig, *, seed: int) -> Loader:
    """Shuffled, augmented training batches."""
    return Loader(
        split=split,
        batch_size=min(config.batch_size, len(split)),
        mean=data.mean,
        std=data.std,
        augment=config.augment,
        shuffle=True,
        drop_last=True,
        seed=seed,
    )


def ordered_batches(data: Data, split: Split, device: torch.device, *, whole: bool = False) -> Prepared:
    """The images in order, as they are; `whole` leaves out a last batch that is not full."""
    loader = Loader(
        split=split,
        batch_size=_EVAL_BATCH,
        mean=data.mean,
        std=data.std,
        augment="none",
        shuffle=False,
        drop_last=whole and len(split) >= _EVAL_BATCH,
        seed=0,
    )
    return Prepared(loader, device)
