"""Images that can only be read a piece at a time, and an order by chance that needs few pieces at once."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Pieces:
    """How images lie together in their source: who reads one has read its whole piece.

    >>> pieces = Pieces(of=np.arange(40) // 4, window=3)
    >>> order = pieces.shuffle(torch.Generator().manual_seed(0))
    >>> sorted(order.tolist()) == list(range(40)), len(set(pieces.of[order[:8]].tolist())) <= 4
    (True, True)

    Attributes:
        of: The piece that each image is in, shape [N].
        window: So many pieces, at least one, may be mixed with each other.
        note: What the user must be told of it.
    """

    of: NDArray[np.int64]
    window: int
    note: str = ""

    def take(self, indices: NDArray[np.int64]) -> "Pieces":
        return replace(self, of=self.of[indices])

    def shuffle(self, generator: torch.Generator) -> NDArray[np.int64]:
        """All images once, shape [N], by chance, but so that at no place more than `window` pieces have begun and not
        ended: who keeps that many, reads each of them once.

        The pieces come in an order by chance, and each image stands by chance within half a window of its piece. At
        both ends, what would stand outside is mirrored: so the mixture is as even there, of half as many pieces.
        """
        names, at = np.unique(self.of, return_inverse=True)
        if len(names) <= self.window:
            return torch.randperm(len(self.of), generator=generator).numpy()
        places = torch.randperm(len(names), generator=generator).numpy() + 0.5
        chances = torch.rand(len(self.of), generator=generator, dtype=torch.float64).numpy() - 0.5
        stand = np.abs(places[at] + self.window * chances)
        stand = len(names) - np.abs(len(names) - stand)
        return np.argsort(stand, kind="stable")


def shuffle(count: int, pieces: Pieces | None, generator: torch.Generator) -> NDArray[np.int64]:
    """The numbers below `count` by chance, shape [count]: any order, or one that suits how the images lie together."""
    return torch.randperm(count, generator=generator).numpy() if pieces is None else pieces.shuffle(generator)
