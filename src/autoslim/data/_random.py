"""Randomness without state: every draw follows from a seed, some numbers, and what it is for. No global generator."""

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.data._pieces import Pieces

_WORD = 0xFFFF_FFFF_FFFF_FFFF  # numpy takes no negative seeds


def make_generator(purpose: str, *numbers: int) -> torch.Generator:
    """A torch generator of its own for this purpose and these numbers (a seed, an epoch)."""
    return torch.Generator().manual_seed(int(sequence_of(purpose, *numbers).generate_state(1, np.uint64)[0]))


def draw_stratified(
    labels: NDArray[np.int64], count: int, *, purpose: str, seed: int, spare: int = 0, pieces: Pieces | None = None
) -> NDArray[np.int64]:
    """Indices of about `count` labels, ascending, each class in proportion to its size.

    Args:
        labels: Shape [N]; a class is a value that occurs.
        count: How many to draw. More are drawn only if there are more classes than that, fewer only if `spare` binds.
        purpose: What the draw is for: two purposes draw independently with the same seed.
        seed: Of the draw.
        spare: Labels of each class that must remain; each class has more than that many.
        pieces: How what is drawn lies together: it is drawn from few of them.

    Returns:
        At least one index for each class, shape [M].
    """
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = _quotas(sizes, count, spare)
    shuffled = draw_order(len(labels), purpose=purpose, seed=seed, pieces=pieces)
    drawn = [shuffled[labels[shuffled] == label][:quota] for label, quota in zip(classes, quotas, strict=True)]
    return np.sort(np.concatenate(drawn))


def draw_order(count: int, *, purpose: str, seed: int, pieces: Pieces | None = None) -> NDArray[np.int64]:
    """The numbers below `count` by chance, shape [count]; with pieces, those of one stand near each other."""
    if pieces is None:
        return np.random.default_rng(sequence_of(purpose, seed)).permutation(count)
    return pieces.shuffle(make_generator(purpose, seed))


def _quotas(sizes: NDArray[np.int64], count: int, spare: int) -> NDArray[np.int64]:
    """How many to draw of each class: the whole numbers nearest to the proportional ones that add up to `count`."""
    ideal = sizes * (count / sizes.sum())
    most = sizes - spare
    quotas = np.clip(np.floor(ideal).astype(np.int64), 1, most)
    while missing := count - int(quotas.sum()):
        step = 1 if missing > 0 else -1
        room = quotas < most if step > 0 else quotas > 1
        if not room.any():
            break
        quotas[np.where(room, step * (ideal - quotas), -np.inf).argmax()] += step
    return quotas


def sequence_of(purpose: str, *numbers: int) -> np.random.SeedSequence:
    """What every generator of this purpose and these numbers is seeded with."""
    return np.random.SeedSequence([*purpose.encode(), *(number & _WORD for number in numbers)])
