"""Some images of a split, drawn by chance: for what is scored or measured on a part of them."""

from typing import TypeVar

import torch

from autoslim.data._base import Split
from autoslim.data._encoded import Encoded
from autoslim.data._pieces import shuffle

_S = TypeVar("_S", bound=Split | Encoded)


def draw_images(split: _S, count: int, *, seed: int) -> _S:
    """Up to `count` images by chance, in an order by chance; out of few pieces, where they are not read one by one."""
    order = shuffle(len(split), split.pieces, torch.Generator().manual_seed(seed))
    return split.take(order[:count])  # pyright: ignore[reportReturnType]
