"""The 1,797 handwritten digits that ship with scikit-learn: real images, 8x8 grey, there without any download."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

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

    def read(rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        return [(f"row {row}", pixels[row]) for row in rows]

    labels = bunch.target.astype(np.int64)
    yield Found(Listing(np.arange(len(labels)), labels, read), None, tuple(str(digit) for digit in range(10)))


SOURCES.register("digits", list_digits)
