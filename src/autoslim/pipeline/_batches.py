"""Batches for training, and for scoring and testing: in order, as they are, as often as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from autoslim.data import (
    WHOLE,
    Data,
    DecodingLoader,
    Encoded,
    Loader,
    Mix,
    Split,
    decode_split,
    load_data,
    load_datasets,
    make_loader,
)
from autoslim.errors import ConfigError
from autoslim.pipeline._config import RunConfig
from autoslim.ranks import Ranks
from autoslim.score import Batch
from autoslim.tasks import Task
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
            at_once = self.device.type == "cuda"  # from pinned memory, while the GPU is still at work
            yield images.to(self.device, non_blocking=at_once), labels.to(self.device, non_blocking=at_once)


def open_data(config: RunConfig, given: Any, task: Task) -> Data:
    """The images of a run: those that its configuration names, or what was given in Python: (train, test), or train."""
    options: dict[str, Any] = {"input_shape": config.input_shape, "seed": config.seed, "targets": task.targets}
    options["whole"] = config.train.augment in WHOLE
    if given is None:
        data = load_data(config.data, **options)
    else:
        train, test = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
        data = load_datasets(train, test, **options)
    channels = data.input_shape[0]
    return data if task.normalised else replace(data, mean=(0.0,) * channels, std=(1.0,) * channels)


def training_batches(
    data: Data,
    split: Split | Encoded,
    config: TrainConfig,
    device: torch.device,
    *,
    seed: int,
    ranks: Ranks,
    workers: int,
) -> Loader | DecodingLoader:
    """Shuffled, augmented training batches; of each, this process's part.

    Raises:
        ConfigError: A process would get fewer images than parts to cut them into, the next one maybe not, and they
            share BatchNorm's statistics: they would wait for each other.
        DataError: A process would get no image.
    """
    mix = Mix(config.mixup, config.cutmix, data.num_classes) if config.mixup or config.cutmix else None
    loader = make_loader(
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
        mix=mix,
        erase=config.erase,
        device=device,
    )
    if config.sync_batchnorm and ranks.size > 1 and loader.order.least < config.accumulate:
        raise ConfigError(
            f"TrainConfig.accumulate is {config.accumulate}, but of a batch of {loader.batch_size} images one of "
            f"{ranks.size} processes gets {loader.order.least}; expected as many images as parts in each, as "
            "--sync-batchnorm needs the same number of parts in all. Raise --batch-size, or lower --accumulate."
        )
    return loader


def ordered_batches(
    data: Data,
    split: Split | Encoded,
    device: torch.device,
    *,
    whole: bool = False,
    kept: bool = False,
    ranks: Ranks,
    workers: int,
) -> Prepared:
    """The images in order, as they are.

    Args:
        data: What they are part of.
        split: The images.
        device: Where batches go.
        whole: Whether a last batch that is not full is left out.
        kept: Whether encoded images are decoded now, and stay in memory where they fit: each process its own.
        ranks: The processes that share the batches.
        workers: Processes that decode what is not in memory.
    """
    size = _EVAL_BATCH if split.told is None else split.told.kind.at_once
    if kept and isinstance(split, Encoded):
        if len(split) >= ranks.size * size:  # so that each has a batch
            places = np.arange(len(split))
            split, ranks = split.take(places[places // size % ranks.size == ranks.rank]), Ranks()
        split = decode_split(split)
    loader = make_loader(
        split,
        batch_size=size,
        mean=data.mean,
        std=data.std,
        augment="none",
        shuffle=False,
        drop_last=whole and len(split) >= size,
        seed=0,
        workers=workers,
        device=device,
    )
    return Prepared(loader, device, ranks)
