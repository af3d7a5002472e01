"""What torch calls datasets, given in Python: listed like any other source, read when asked for."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from autoslim.data._listing import File, Found, Listing, number_classes
from autoslim.errors import DataError

_LOCK = threading.Lock()  # a dataset of someone's own need not be safe for threads


def list_datasets(name: str, train: Any, test: Any) -> Found:
    """Lists datasets or loaders; labels are taken from `targets` where there are, else all items are looked at once.

    Raises:
        DataError: No map-style dataset, or items of another kind.
    """
    listed = _list_dataset(f"{name}, train", train)
    other = None if test is None else _list_dataset(f"{name}, test", test)
    numbers = number_classes(name, *(each.labels for each in (listed, other) if each is not None))
    names: Any = getattr(_unwrap(train), "classes", None)
    named = isinstance(names, (list, tuple)) and len(names) >= len(numbers)
    return Found(listed, other, tuple(map(str, names)) if named else numbers)


def _list_dataset(where: str, given: Any) -> Listing:
    dataset: Any = _unwrap(given)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{where}: {type(dataset).__name__} has no length or no items by number; expected a map-style "
            "torch.utils.data.Dataset, or a DataLoader over one. Give one with __len__ and __getitem__."
        )
    items = _Items(where, dataset)
    targets = getattr(dataset, "targets", None)
    changed = getattr(dataset, "target_transform", None) is not None
    if targets is None or changed or len(targets) != len(dataset):
        targets = [items.label(row) for row in range(len(dataset))]
    labels = np.asarray(targets)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}; expected one whole number for each image. "
            "Give `targets` like that, or let items be (image, number)."
        )
    return Listing(np.arange(len(labels)), labels.astype(np.int64), items)


def _unwrap(given: Any) -> Any:
    """The dataset of a loader."""
    return given.dataset if isinstance(given, torch.utils.data.DataLoader) else given


@dataclass(frozen=True)
class _Items:
    """A dataset's items as files."""

    where: str
    dataset: Any

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        return [(f"{self.where}, item {row}", self._image(row, self._item(row)[0])) for row in rows]

    def label(self, row: int) -> int:
        label = self._item(row)[1]
        if not isinstance(label, (int, np.integer, torch.Tensor)) or int(label) != label:
            raise self._odd(row, f"its label is {label!r}; expected a whole number from 0")
        return int(label)

    def _item(self, row: int) -> Sequence[Any]:
        try:
            with _LOCK:
                item = self.dataset[row]
        except Exception as error:
            raise self._odd(row, f"reading it raised {type(error).__name__}: {error}; expected an item") from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise self._odd(row, f"it is {type(item).__name__}; expected (image, label)")
        return item

    def _image(self, row: int, image: Any) -> "Image.Image | NDArray[np.uint8]":
        if isinstance(image, Image.Image):
            return image
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
            pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
                pixels = np.rint(pixels * 255).astype(np.uint8)
            if pixels.dtype == np.uint8:
                return np.ascontiguousarray(pixels)
        raise self._odd(
            row,
            f"its image is {type(image).__name__} {pixels.dtype} {list(pixels.shape)}; expected an image of Pillow's, "
            "or a tensor [H, W], [1, H, W] or [3, H, W] of bytes or of floats from 0 to 1, not normalised",
        )

    def _odd(self, row: int, what: str) -> DataError:
        return DataError(f"{self.where}, item {row}: {what}. Correct the dataset.")
