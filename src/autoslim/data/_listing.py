"""What a source lists, images that are not decoded yet, and the checks that hold whatever the source."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoslim.data._pieces import Pieces
from autoslim.errors import DataError

File: TypeAlias = bytes | str | NDArray[np.uint8] | Image.Image | None
Shape: TypeAlias = tuple[int, int, int]
RawTarget: TypeAlias = tuple[NDArray[Any], tuple[int, int]]

_MEMORY = 8 * 2**30  # bytes of decoded images, train and test together
_MOST_CLASSES = 1_000_000  # a label beyond is a mistake, or meant to fill the memory with names
_NAMED = 5  # names spelt out in a message, before "and N more"


@dataclass(frozen=True, eq=False)
class Listing:
    """Images that are known but not decoded.

    Attributes:
        rows: Where each image stands in its source, shape [N]: what `read` is asked for.
        labels: The class of each, shape [N].
        read: From rows to (name, file) each, to be gone through once; a file is encoded bytes, a path, pixels [H, W] or
            [H, W, 3], an image of Pillow's, or None if missing. It can be pickled, for workers that are not forked.
        pieces: How they lie together, where one can't be read alone.
        told: From rows to (target, height and width of its image) each, where images have more than a label: `labels`
            are then strata.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    read: Callable[[Sequence[int]], Iterable[tuple[str, File]]]
    pieces: Pieces | None = None
    told: "Callable[[Sequence[int]], Sequence[RawTarget]] | None" = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: NDArray[np.int64]) -> "Listing":
        pieces = None if self.pieces is None else self.pieces.take(indices)
        return replace(self, rows=self.rows[indices], labels=self.labels[indices], pieces=pieces)


@dataclass(frozen=True, eq=False)
class Found:
    """What a source lists; `test` is None if it has none, and a split is then made.

    `files` are the names of its files and what tells each from another of that name; `spec` finds the same ones again.
    """

    train: Listing
    test: Listing | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    spec: str = ""


def locate(place: str) -> Path:
    """The path that `place` writes, with ~ expanded where there is such a user."""
    return Path(os.path.expanduser(place))  # Path.expanduser raises for a user that does not exist


def number_classes(where: str, *labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names for classes that are numbers: as many as the largest label asks for."""
    most = max((int(each.max(initial=0)) for each in labels), default=0)
    if most >= _MOST_CLASSES:
        raise DataError(
            f"{where}: a label is {most}; expected numbers from 0 to the classes less one, below {_MOST_CLASSES}. "
            "Number the classes from 0."
        )
    return tuple(map(str, range(most + 1)))


def check_labels(spec: str, found: Found) -> None:
    """Refuses what no training can work with: no images, a single class, labels that name no class."""
    if not len(found.train):
        raise DataError(f"{spec}: no images at all; expected at least two for each class. Check the path or the name.")
    if found.train.told is not None:
        return  # labels are strata then
    for part, listing in (("train", found.train), ("test", found.test)):
        labels = np.empty(0, np.int64) if listing is None else listing.labels
        outside = np.flatnonzero((labels < 0) | (labels >= len(found.classes)))
        if outside.size:
            raise DataError(
                f"{spec}, {part}: {outside.size} labels are outside the class range, the first is {labels[outside[0]]} "
                f"at image {outside[0]}; expected 0 to {len(found.classes) - 1}. Correct these labels, or leave images "
                "without one (often marked -1) out."
            )
    if len(np.unique(found.train.labels)) < 2:
        raise DataError(
            f"{spec}: all {len(found.train)} images are of one class ({found.classes[found.train.labels[0]]}); "
            "expected two classes or more. Add images of another class."
        )


def check_parts(where: str, labels: NDArray[np.int64], classes: Sequence[str] | None, parts: int) -> None:
    """Refuses a class with fewer images than parts, 2 or 3; without `classes` it is named by its number."""
    values, sizes = np.unique(labels, return_counts=True)
    few = [classes[int(value)] if classes else f"class {value}" for value in values[sizes < parts]]
    if few:
        count = "one image" if sizes[sizes < parts].max() == 1 else "one or two images"
        least, into = ("two", "") if parts == 2 else ("three", " into train, search and test")
        raise DataError(
            f"{where}: only {count} of {name_some(few)}; expected {least} or more of each class, as each is divided"
            f"{into}. Add images, or leave such a class out."
        )


def describe_absent(found: Found) -> tuple[str, ...]:
    """A note on classes that no train image is of: labels that do not start at 0, or have gaps."""
    absent = np.setdiff1d(np.arange(len(found.classes)), found.train.labels)
    if found.train.told is not None or not len(absent):
        return ()
    named = name_some([f"class {found.classes[label]}" for label in absent])
    return (f"No train image is of {named}: outputs for that are of no use. Labels are numbered from 0.",)


def fits_memory(count: int, shape: Shape) -> bool:
    """Whether `count` images of `shape` may be kept in memory, decoded."""
    return count * math.prod(shape) <= _MEMORY


def describe_excess(count: int, shape: Shape) -> str:
    """What to tell where `count` images of `shape` exceed the memory that decoded images may take; "" where not."""
    if fits_memory(count, shape):
        return ""
    return (
        f"{count} images of {'x'.join(map(str, shape))} would take {describe_size(count, shape)} decoded, more than "
        f"{_MEMORY / 2**30:g}: they are read and decoded again each time, by --workers processes."
    )


def describe_size(count: int, shape: Shape) -> str:
    """The memory that `count` images of `shape` take, decoded.

    >>> describe_size(1000, (3, 224, 224))
    '143.6 MiB'
    """
    size = count * math.prod(shape) / 2**20
    return f"{size / 2**10:.1f} GiB" if size >= 2**10 else f"{size:.1f} MiB"


def check_readable(
    where: str, failed: Sequence[str], labels: NDArray[np.int64], kept: NDArray[np.int64], classes: Sequence[str]
) -> tuple[str, ...]:
    """Notes on the images left out; DataError if they are more than 1%, or the last ones of a class.

    Without `classes` not all images of a class were looked at.
    """
    if not failed:
        return ()
    told = f"{len(failed)} of {len(labels)} images can't be read: {name_some(failed)}"
    if 100 * len(failed) > len(labels):
        raise DataError(f"{where}: {told}. Expected at most 1%. Replace or remove them.")
    lost = [classes[int(label)] for label in np.setdiff1d(labels, labels[kept])] if classes else []
    if lost:
        raise DataError(f"{where}: {told}. No image of {name_some(lost)} is left; expected one. Replace them.")
    return (f"{where}: {told}. They are left out.",)


def describe_only(train: Sequence[str], test: Sequence[str], name: str) -> str:
    """Which classes train or test (called `name`) has alone; "" if none."""
    return "; ".join(
        f"only in {where}: {name_some(sorted(names))}"
        for where, names in (("train", set(train) - set(test)), (name, set(test) - set(train)))
        if names
    )


def name_some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
