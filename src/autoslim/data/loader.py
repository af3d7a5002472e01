"""Takes a split in memory, gives the normalised, augmented batches of an epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from autoslim.data._base import Split
from autoslim.data._random import make_generator
from autoslim.errors import DataError

Augment = Literal["none", "crop", "crop+flip"]
_PAD = 8  # a crop may leave the image by an eighth of its side


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of a split. It has no state: the same seed and epoch give the same batches, in any order of asking.

    Attributes:
        split: The images and labels.
        batch_size: Images per batch.
        mean: Of each channel, in [0, 1]; subtracted.
        std: Of each channel, above 0; divided by.
        augment: "crop" shifts each image by up to an eighth of its side, reflecting it at the edges; "flip" mirrors
            every second one, by chance.
        shuffle: Whether the order is drawn anew each epoch.
        drop_last: Whether a last batch that is not full is left out.
        seed: Of order, crops and flips.
    """

    split: Split
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment = "none"
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        channels = self.split.images.shape[1]
        if self.augment not in get_args(Augment):
            raise DataError(f"Loader: augment {self.augment!r}; expected one of {', '.join(get_args(Augment))}.")
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise DataError(
                f"Loader: mean {self.mean} and std {self.std} for images with {channels} channels; expected one number "
                "per channel each, std above 0. Take both from the Data that the split came from."
            )
        if self.batch_size < 1 or len(self) < 1:
            raise DataError(
                f"Loader: {len(self.split)} images do not fill one batch of {self.batch_size}; expected at least one "
                "batch. Lower --batch-size."
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        extra = 0 if self.drop_last else self.batch_size - 1
        return (len(self.split) + extra) // self.batch_size

    def epoch(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of epoch `number`: images float32 [B, C, H, W] in channels-last memory, and labels int64 [B]."""
        count = len(self.split)
        order = torch.arange(count)
        if self.shuffle:
            order = torch.randperm(count, generator=make_generator("order", self.seed, number))
        mean, std = 255 * torch.tensor(self.mean), 255 * torch.tensor(self.std)
        rows, columns = self._positions(number)
        for batch in range(len(self)):
            places = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            chosen = order[places]
            if self.augment == "none":
                x_NHWC = self.split.images[chosen].permute(0, 2, 3, 1)
            else:
                # three index tensors around the channels: their dimensions come first, the channels last
                x_NHWC = self.split.images[chosen[:, None, None], :, rows[places, :, None], columns[places, None, :]]
            x_NHWC = x_NHWC.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
            yield x_NHWC.permute(0, 3, 1, 2), self.split.labels[chosen]

    def _positions(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The row and the column that each pixel of the epoch's images is taken from: [N, H] and [N, W]."""
        count, (height, width) = len(self.split), self.split.images.shape[2:]
        crop = make_generator("crop", self.seed, number)
        rows, columns = (_shifted(side, count, crop) for side in (height, width))
        if self.augment == "crop+flip":
            mirrored = torch.rand(count, generator=make_generator("flip", self.seed, number)) < 0.5
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        return rows, columns


def _shifted(side: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Positions 0 to side - 1, shifted at random and reflected at both ends, shape [count, side]."""
    pad = side // _PAD
    shift = torch.randint(-pad, pad + 1, (count, 1), generator=generator)
    return (side - 1) - ((side - 1) - (torch.arange(side) + shift).abs()).abs()
