"""The 1,797 handwritten digits that ship with scikit-learn: real images, 8x8 grey, there without any download."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.data._base import SOURCES
from autoslim.data._listing import File, Found, Listing
from autoslim.errors import DataError


@contextmanager
def list_digits(place: str) -> Generator[Found, None, None]:
    """Lists the digits; they come without a test split."""
    if place:
        raise DataError(f"digits:{place}: digits is one data set; expected nothing after its name. Write digits.")
    from sklearn import datasets  # heavy: only who asks for digits pays for it

    bunch: Any = datasets.load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # ink is counted from 0 to 16
    labels = bunch.target.astype(np.int64)
    listing = Listing(np.arange(len(labels)), labels, _Pixels(pixels))
    yield Found(listing, None, tuple(str(digit) for digit in range(10)))


@dataclass(frozen=True)
class _Pixels:
    """The images, grey [N, H, W], by row."""

    pixels: NDArray[np.uint8]

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        return [(f"row {row}", self.pixels[row]) for row in rows]


SOURCES.register("digits", list_digits)
