"""Batches for training, and for scoring and testing: in order, as they are, as often as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from autoslim.data import Data, DecodingLoader, Encoded, Loader, Split, make_loader
from autoslim.ranks import Ranks
from autoslim.score import Batch
from autoslim.train import TrainConfig

_EVAL_BATCH = 250


@dataclass(frozen=True)
class Prepared:
    """Batches that can be gone through again and again; the images stay bytes in memory, a quarter of the size.

    Of several processes each gets every so many-th batch (see `score`).
    """

    loader: Loader | DecodingLoader
    device: torch.device
    ranks: Ranks

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.loader.epoch(0, start=self.ranks.rank, stride=self.ranks.size):
            yield images.to(self.device), labels.to(self.device)


def training_batches(
    data: Data, split: Split | Encoded, config: TrainConfig, *, seed: int, ranks: Ranks, workers: int
) -> Loader | DecodingLoader:
    """Shuffled, augmented training batches; of each, this process's part."""
    return make_loader(
        split,
        batch_size=min(config.batch_size, len(split)),
        mean=data.mean,
        std=data.std,
        augment=config.augment,
        shuffle=True,
        drop_last=True,
        seed=seed,
        ranks=ranks,
        workers=workers,
    )


def ordered_batches(
    data: Data, split: Split | Encoded, device: torch.device, *, whole: bool = False, ranks: Ranks, workers: int
) -> Prepared:
    """The images in order, as they are; `whole` leaves out a last batch that is not full."""
    loader = make_loader(
        split,
        batch_size=_EVAL_BATCH,
        mean=data.mean,
        std=data.std,
        augment="none",
        shuffle=False,
        drop_last=whole and len(split) >= _EVAL_BATCH,
        seed=0,
        workers=workers,
    )
    return Prepared(loader, device, ranks)
