"""Which images are in which batch: the order of an epoch, and each process's part of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoslim.data._pieces import Pieces, shuffle
from autoslim.data._random import make_generator
from autoslim.errors import DataError
from autoslim.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Order:
    """How images are grouped into the batches of an epoch. It has no state: the same seed and epoch, the same batches.

    >>> [chosen.tolist() for _, chosen in Order(count=5, batch_size=2).batches(0)]
    [[0, 1], [2, 3], [4]]

    Attributes:
        count: Images there are.
        batch_size: Images per batch, over all processes.
        shuffle: Whether the order is drawn anew each epoch.
        drop_last: Whether a last batch that is not full is left out.
        seed: Of the order.
        ranks: The processes that share each batch; each gets its part of it.
        pairs: Whether images 0 and 1 of a batch stay in one part, 2 and 3, and so on.
        pieces: How the images lie together, where they are not read one by one: what shuffles them, then.
    """

    count: int
    batch_size: int
    shuffle: bool = False
    drop_last: bool = False
    seed: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    pairs: bool = False
    pieces: Pieces | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or len(self) < 1:
            raise DataError(
                f"Loader: {self.count} images do not fill one batch of {self.batch_size}; expected at least one "
                "batch. Lower --batch-size."
            )
        if self.pairs and self.batch_size < 2 * self.ranks.size:
            raise DataError(
                f"Loader: batches of {self.batch_size} can't be divided into pairs for {self.ranks.size} processes; "
                f"mixup and cutmix need two images in each, expected {2 * self.ranks.size} or more. Raise --batch-size."
            )

        if self.batch_size < self.ranks.size:
            raise DataError(
                f"Loader: batches of {self.batch_size} can't be divided among {self.ranks.size} processes; expected "
                f"{self.ranks.size} images or more, one for each. Raise --batch-size, or start fewer processes."
            )

    @property
    def least(self) -> int:
        """Images that the process with the fewest gets of a full batch.

        >>> Order(count=9, batch_size=9, ranks=Ranks(0, 2)).least
        4
        """
        unit = 2 if self.pairs else 1
        shares = [Ranks(rank, self.ranks.size).share(-(-self.batch_size // unit)) for rank in range(self.ranks.size)]
        return min(min(share.stop * unit, self.batch_size) - share.start * unit for share in shares)

    def __len__(self) -> int:
        """Batches in an epoch."""
        extra = 0 if self.drop_last else self.batch_size - 1
        return (self.count + extra) // self.batch_size

    def batches(self, number: int, start: int = 0, stride: int = 1) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Places in the epoch and images of batch `start` of epoch `number`, and of every `stride`-th from there on."""
        order = np.arange(self.count)
        if self.shuffle:
            order = shuffle(self.count, self.pieces, make_generator("order", self.seed, number))
        for batch in range(start, len(self), stride):
            first = batch * self.batch_size
            size, unit = min(self.batch_size, self.count - first), 2 if self.pairs else 1
            part = self.ranks.share(-(-size // unit))
            places = slice(first + part.start * unit, first + min(part.stop * unit, size))
            yield places, order[places]
