"""Takes a split in memory, gives the normalised, augmented batches of an epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.data._augment import PAD, Augment, Simple, check_augment, make_eraser, make_transform, reflect
from autoslim.data._base import Split
from autoslim.data._encoded import DecodingLoader, Encoded
from autoslim.data._mix import Mix
from autoslim.data._order import Order
from autoslim.data._random import make_generator
from autoslim.errors import DataError
from autoslim.ranks import Ranks

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of a split. It has no state: the same seed and epoch give the same batches, in any order of asking.

    >>> split = Split(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10))
    >>> loader = Loader(split, 4, (0.5,) * 3, (0.25,) * 3, "crop+flip", shuffle=True)
    >>> [list(x.shape) for x, y in loader.epoch(0)]
    [[4, 3, 8, 8], [4, 3, 8, 8], [2, 3, 8, 8]]

    Attributes:
        split: The images and labels.
        batch_size: Images per batch.
        mean: Of each channel, in [0, 1]; subtracted.
        std: Of each channel, above 0; divided by.
        augment: "crop" shifts each image by up to an eighth of its side, reflecting it at the edges; "flip" mirrors
            every second one, by chance; "crop+flip" does both.
        shuffle: Whether the order is drawn anew each epoch.
        drop_last: Whether a last batch that is not full is left out.
        seed: Of order, crops and flips.
        ranks: The processes that share each batch; each gets its part of it.
        mix: Mixup and cutmix; labels are float32 [B, classes] then.
        device: Where batches are made: the split is copied there, once. The numbers are the same everywhere.
    """

    split: Split
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Simple = "none"
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    mix: Mix | None = None
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        channels = self.split.images.shape[1]
        if self.augment not in get_args(Simple):
            raise DataError(f"Loader: augment {self.augment!r}; expected one of {', '.join(get_args(Simple))}.")
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise DataError(
                f"Loader: mean {self.mean} and std {self.std} for images with {channels} channels; expected one number "
                "per channel each, std above 0. Take both from the Data that the split came from."
            )
        self.order  # noqa: B018 - refuses what does not fill a batch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.order)

    @cached_property
    def order(self) -> Order:
        """Which images are in which batch."""
        return Order(
            count=len(self.split), batch_size=self.batch_size, shuffle=self.shuffle, drop_last=self.drop_last,
            seed=self.seed, ranks=self.ranks, pairs=self.mix is not None,
        )  # fmt: skip

    def epoch(self, number: int, start: int = 0, stride: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of epoch `number`: batch `start`, and every `stride`-th from there on.

        Images float32 [B, C, H, W], contiguous whatever the network's layout, and labels int64 [B] or other targets
        [B, ...]; B is this process's part of a batch.
        """
        down, right, mirrored = self._draw(number)
        height, width = self.split.images.shape[2:]
        steps = range(number * len(self) + start, (number + 1) * len(self), stride)
        for step, (places, chosen) in zip(steps, self.order.batches(number, start, stride), strict=True):
            rows = columns = pixels = None
            if self.augment != "none":
                rows, columns = reflect(height, down[places]), reflect(width, right[places])
                columns = np.where(mirrored[places, None], columns[:, ::-1], columns)
                # three index arrays around the channels: their dimensions come first, the channels last
                pixels = chosen[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]
            batch = self._pixels.batch(chosen, pixels)
            if self.split.told is not None:
                batch = batch[0], self.split.told.moved(chosen, rows, columns).to(self.device)
            yield batch if self.mix is None else self.mix.apply(*batch, self.seed, step)

    @cached_property
    def _pixels(self) -> "_Here | _There":
        """The images where batches are made of them."""
        scale = (255 * np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        if self.device == _CPU:
            return _Here(self.split.images.numpy(), self.split.labels.numpy(), *scale)
        tensors = self.split.images, self.split.labels, *(torch.from_numpy(each) for each in scale)
        return _There(*(each.to(self.device) for each in tensors))

    def _draw(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """How far each of the epoch's images is shifted down and right, and whether it is mirrored: shape [N] each."""
        count, (height, width) = len(self.split), self.split.images.shape[2:]
        crop = make_generator("crop", self.seed, number)
        down, right = (
            torch.randint(-(side // PAD), side // PAD + 1, (count,), generator=crop).numpy() for side in (height, width)
        )
        if self.augment == "flip":
            down = right = np.zeros(count, dtype=np.int64)
        elif self.augment != "crop+flip":
            return down, right, np.zeros(count, dtype=np.bool_)
        return down, right, (torch.rand(count, generator=make_generator("flip", self.seed, number)) < 0.5).numpy()


_Pixels = tuple[NDArray[np.int64], slice, NDArray[np.int64], NDArray[np.int64]]  # of each image, channel, row, column


@dataclass(frozen=True)
class _Here:
    """Images uint8 [N, C, H, W] in the processor's memory, labels [N], and 255 times mean and std, [C, 1, 1] each.

    In numpy, not torch: its indexing stays on one core and leaves torch's threads to the network.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def batch(self, chosen: NDArray[np.int64], pixels: _Pixels | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen images, whole or pixel by pixel, normalised: [B, C, H, W]; labels [B]."""
        x = self.images[chosen] if pixels is None else self.images[pixels].transpose(0, 3, 1, 2)
        x = x.astype(np.float32, order="C")
        x -= self.mean
        x /= self.std
        return torch.from_numpy(x), torch.from_numpy(self.labels[chosen])


@dataclass(frozen=True)
class _There:
    """The same on a device, where only the numbers of images, rows and columns are sent for each batch."""

    images: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def batch(self, chosen: NDArray[np.int64], pixels: _Pixels | None) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_Here.batch`, to the bit."""
        at = self._sent(chosen)
        if pixels is None:
            x = self.images[at]
        else:
            index = tuple(each if isinstance(each, slice) else self._sent(each) for each in pixels)
            x = self.images[index].permute(0, 3, 1, 2).contiguous()
        return x.float().sub_(self.mean).div_(self.std), self.labels[at]

    def _sent(self, index: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(index)).to(self.images.device, non_blocking=True)


def make_loader(
    split: Split | Encoded,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augment: Augment = "none",
    *,
    shuffle: bool = False,
    drop_last: bool = False,
    seed: int = 0,
    ranks: Ranks | None = None,
    workers: int = 0,
    mix: Mix | None = None,
    erase: float = 0.0,
    device: torch.device | None = None,
) -> Loader | DecodingLoader:
    """The batches of a split: made in this process where it is in memory and shifts and flips are all that is asked.

    Args:
        split: The images.
        batch_size: Images per batch, over all processes.
        mean: Of each channel, in [0, 1].
        std: Likewise, above 0.
        augment: "none", "flip", "crop", "crop+flip", or one of timm's: "imagenet", "mobile", "randaugment".
        shuffle: As in `Loader`.
        drop_last: As in `Loader`.
        seed: As in `Loader`.
        ranks: As in `Loader`; default this process alone.
        workers: Processes that decode and augment, where there is need of any.
        mix: As in `Loader`.
        erase: Share of the images in which a rectangle is replaced by noise, after all else.
        device: Where the network runs: a GPU makes the batches itself where the images fit into half of what is free
            there. Default the processor.
    """
    check_augment(augment)
    ranks = ranks or Ranks()
    if isinstance(split, Split) and augment in get_args(Simple) and not erase:
        place = _place(split, device or _CPU)
        return Loader(split, batch_size, mean, std, augment, shuffle, drop_last, seed, ranks, mix, place)  # pyright: ignore[reportArgumentType]
    encoded = split.encoded() if isinstance(split, Split) else split
    order = Order(
        count=len(split), batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed, ranks=ranks,
        pairs=mix is not None, pieces=encoded.pieces,
    )  # fmt: skip
    transform = make_transform(augment, encoded.shape)
    return DecodingLoader(encoded, order, mean, std, transform, workers, mix, make_eraser(erase) if erase else None)


def _place(split: Split, device: torch.device) -> torch.device:
    """Where batches of a split are made: on a GPU with room for it, else in the processor's memory."""
    if device.type != "cuda" or 2 * split.images.numel() > torch.cuda.mem_get_info(device)[0]:
        return _CPU
    return device
