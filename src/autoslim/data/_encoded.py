"""Images that stay encoded, and the worker processes that decode and augment them while the network is at work."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from autoslim.data._images import decode_image
from autoslim.data._listing import Listing, Shape
from autoslim.data._order import Order
from autoslim.data._random import sequence_of
from autoslim.errors import DataError

Transform = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Images and labels; an image is decoded each time it is asked for.

    Attributes:
        listing: The images.
        shape: (C, H, W) that they are brought to.
    """

    listing: Listing
    shape: Shape

    def __len__(self) -> int:
        return len(self.listing)

    @cached_property
    def labels(self) -> torch.Tensor:
        """int64 [N]."""
        return torch.from_numpy(self.listing.labels)

    def take(self, indices: Any) -> "Encoded":
        """The images at `indices`, in their order."""
        return Encoded(self.listing.take(np.asarray(indices, dtype=np.int64)), self.shape)

    def fingerprint(self) -> list[Any]:
        """What tells these images from others: where they stand in their source, and their labels."""
        return [list(self.shape), self.listing.rows, self.listing.labels]


@dataclass(frozen=True, eq=False)
class DecodingLoader:
    """Batches of images that worker processes decode and augment; see `Loader` for what they are.

    An image's augmentation is drawn from (seed, epoch, image), for Python, numpy and torch alike: the same batches come
    with any number of workers and processes, and from any batch on, those before it not being decoded.

    Attributes:
        split: The images.
        order: Their batches.
        mean: Of each channel, in [0, 1]; subtracted.
        std: Of each channel, above 0; divided by.
        transform: From an image as it is to one of the input size; None: scaled to cover it, and its centre.
        workers: Processes that decode; 0: this one.
    """

    split: Encoded
    order: Order
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: Transform | None
    workers: int

    def __len__(self) -> int:
        return len(self.order)

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    def epoch(self, number: int, start: int = 0, stride: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """As `Loader.epoch`.

        Raises:
            DataError: An image can't be read, or a worker died.
        """
        chosen = [images.tolist() for _, images in self.order.batches(number, start, stride)]
        if not chosen:
            return
        workers = min(self.workers, len(chosen))
        decoded = DataLoader(
            _Images(self, number), batch_sampler=chosen, num_workers=workers, worker_init_fn=_one_thread,
            generator=torch.Generator(),  # its own draw of a seed leaves the global generator alone
        )  # fmt: skip
        iterator = iter(decoded)
        while True:
            try:
                images, labels = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise DataError(
                    f"A process that decodes images died: {error}. Expected it to live as long as the run. Memory may "
                    "be short: try fewer --workers, or a smaller --batch-size; then go on with --resume."
                ) from error
            yield images.contiguous(memory_format=torch.channels_last), labels


class _Images(Dataset[tuple[torch.Tensor, int]]):
    """The images of one epoch, by their number in the split."""

    def __init__(self, loader: DecodingLoader, epoch: int) -> None:
        self._split, self._transform = loader.split, loader.transform
        self._seed, self._epoch = loader.order.seed, epoch
        self._mean, self._std = (np.array(values, dtype=np.float32) * 255 for values in (loader.mean, loader.std))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        listing = self._split.listing
        ((name, file),) = listing.read([int(listing.rows[index])])
        transform = None if self._transform is None else self._seeded(index, self._transform)
        pixels = decode_image(name, file, self._split.shape, transform)
        x_HWC = (pixels.astype(np.float32) - self._mean) / self._std
        return torch.from_numpy(x_HWC).permute(2, 0, 1), int(listing.labels[index])

    def _seeded(self, index: int, transform: Transform) -> Transform:
        def run(image: Image.Image) -> Image.Image:
            draws = sequence_of("augment", self._seed, self._epoch, index).generate_state(3)
            kept = random.getstate(), np.random.get_state()
            with torch.random.fork_rng(devices=[]):
                random.seed(int(draws[0]))
                np.random.seed(int(draws[1]))
                torch.manual_seed(int(draws[2]))
                try:
                    return transform(image)
                finally:
                    random.setstate(kept[0])
                    np.random.set_state(kept[1])

        return run


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
