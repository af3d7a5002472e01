"""What torch calls datasets, given in Python: listed like any other source, read when asked for."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from autoslim.data._images import read_orientation
from autoslim.data._listing import File, Found, Listing, RawTarget, describe_only, number_classes
from autoslim.errors import DataError
from autoslim.tasks import Targets

_COMPARED = 16  # items that are read twice, and whose own labels are held against `targets`
_KEPT_BYTES = 2**30  # of targets that are kept after they were looked at
_LOCK = threading.Lock()  # a dataset of someone's own need not be safe for threads


def list_datasets(name: str, train: Any, test: Any, targets: Targets | None = None) -> Found:
    """Lists datasets or loaders; labels are taken from `targets` where items agree, else all are looked at once.

    Args:
        name: What errors call them.
        train: A dataset, or a loader over one.
        test: Another, or None.
        targets: How an item's target is read; None: it is a label.

    Raises:
        DataError: No map-style dataset, a loader that draws in a way of its own, train and test that are one, or items
            of another kind.
    """
    if test is not None and _unwrap(train) is _unwrap(test):
        raise DataError(
            f"{name}: train and test are the same dataset; expected test images that nothing is trained on. Give two "
            "(torch.utils.data.Subset(dataset, indices) is a part of one), or train alone: a part is then set aside."
        )
    listed, most, notes = _list_dataset(f"{name}, train", train, targets)
    other, more = None, listed.labels[:0]
    if test is not None:
        other, more, told = _list_dataset(f"{name}, test", test, targets)
        notes = (*notes, *told)
    numbers = number_classes(name, most, more)
    names = _find_names(train)
    if test is not None:
        _check_names(name, names, _find_names(test))
    named = len(names) >= len(numbers)
    if notes and named:  # there may be names for what no item says
        named = len(names) == len(numbers)
    return Found(listed, other, names if named else numbers, notes)


def _find_names(given: Any) -> tuple[str, ...]:
    """The dataset's own names of its classes; none where it has none."""
    names = getattr(_unwrap(given), "classes", ())
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def _check_names(name: str, train: Sequence[str], test: Sequence[str]) -> None:
    """Refuses datasets that each number classes of their own: label 1 of test would be another class."""
    if train and test and train != test:
        only = describe_only(train, test, "test") or "they are the same ones in another order"
        raise DataError(
            f"{name}: train and test have different `classes`, {only}. Expected the same in both, as labels are "
            "numbers of them. Number the labels of both alike."
        )


def _list_dataset(where: str, given: Any, kind: Targets | None) -> tuple[Listing, NDArray[np.int64], tuple[str, ...]]:
    """The listing, the highest class that each item asks for, and notes."""
    dataset: Any = _unwrap(given)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{where}: {type(dataset).__name__} has no length or no items by number; expected a map-style "
            "torch.utils.data.Dataset, or a DataLoader over one. Give one with __len__ and __getitem__."
        )
    if isinstance(given, DataLoader):
        _check_sampler(where, given, len(dataset))
    items = _Items(where, dataset)
    looked_at = items.look()
    if kind is not None:
        told = _Targets(items, kind)
        strata, most = np.array([told.look(row) for row in range(len(dataset))], dtype=np.int64).reshape(-1, 2).T
        return Listing(np.arange(len(strata)), np.ascontiguousarray(strata), items, told=told), most, ()
    labels, notes = _find_labels(items, looked_at)
    return Listing(np.arange(len(labels)), labels, items), labels, notes


def _find_labels(items: "_Items", looked_at: Mapping[int, Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels in `targets`, unless items that were looked at say others: then those of all items, and a note."""
    dataset, notes = items.dataset, ()
    targets = getattr(dataset, "targets", None)
    changed = getattr(dataset, "target_transform", None) is not None
    if targets is not None and not changed and len(targets) == len(dataset):
        labels = _check_numbers(items.where, targets)
        said = {row: items.label(row, label) for row, label in looked_at.items()}
        odd = next((row for row in said if said[row] != labels[row]), None)
        if odd is None:
            return labels, ()
        notes = (
            f"{items.where}: item {odd} has the label {said[odd]}, and `targets` says {labels[odd]}: all labels "
            "are those of the items.",
        )
    labels = [items.label(row, items.item(row)[1]) for row in range(len(dataset))]
    return _check_numbers(items.where, labels), notes


def _check_numbers(where: str, targets: Any) -> NDArray[np.int64]:
    labels = np.asarray(targets)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}; expected one whole number for each image. "
            "Give `targets` like that, or let items be (image, number)."
        )
    return labels.astype(np.int64)


def _unwrap(given: Any) -> Any:
    """The dataset of a loader."""
    return given.dataset if isinstance(given, DataLoader) else given


def _check_sampler(where: str, loader: Any, size: int) -> None:
    """Refuses a loader that may leave images out, or draw some more often: only its dataset is taken."""
    batches = loader.batch_sampler
    own = batches is not None and type(batches) is not BatchSampler
    sampler: Any = batches if own else loader.sampler if batches is None else batches.sampler
    if own or type(sampler) not in (SequentialSampler, RandomSampler) or len(sampler) != size:
        raise DataError(
            f"{where}: the loader draws its images by {type(sampler).__name__}; expected all {size} of the dataset, in "
            "order or shuffled, as only the dataset is taken. Give the dataset itself, or of a part of it "
            "torch.utils.data.Subset(dataset, indices)."
        )


@dataclass(frozen=True)
class _Items:
    """A dataset's items as files."""

    where: str
    dataset: Any

    def __call__(self, rows: Sequence[int]) -> Iterator[tuple[str, File]]:
        for row in rows:  # one by one: whole pictures, or open files, may be more than there is room for
            yield f"{self.where}, item {row}", self._image(row, self.item(row)[0])

    def look(self) -> dict[int, Any]:
        """The labels or targets of some items, by row; DataError where an image is another when it is read again."""
        looked_at: dict[int, Any] = {}
        count = len(self.dataset)
        for row in np.linspace(0, count - 1, min(count, _COMPARED)).astype(int).tolist():
            (image, looked_at[row]), (again, _) = self.item(row), self.item(row)
            if self._content(row, image) != self._content(row, again):
                raise DataError(
                    f"{self.where}, item {row}: its image was another one when it was read again; expected the same, "
                    "as batches follow from the seed. Give the dataset without augmentation: --augment does that."
                )
        return looked_at

    def label(self, row: int, label: Any) -> int:
        """An item's label as a number."""
        if isinstance(label, torch.Tensor) and label.numel() != 1:
            raise self.odd(row, f"its label is a tensor {list(label.shape)}; expected a whole number from 0")
        if not isinstance(label, (int, np.integer, torch.Tensor)) or float(label) % 1 != 0:
            raise self.odd(row, f"its label is {label!r}; expected a whole number from 0")
        return int(label)

    def size(self, row: int, image: Any) -> tuple[int, int]:
        """Height and width of an item's image. One that is turned by its EXIF data would leave its target behind."""
        if isinstance(image, Image.Image):
            if read_orientation(image) != 1:
                raise self.odd(row, "its image is to be turned (EXIF); expected it upright, as its target is")
            return image.height, image.width
        height, width = np.asarray(self._image(row, image)).shape[:2]
        return height, width

    def item(self, row: int) -> Sequence[Any]:
        try:
            with _LOCK:
                item = self.dataset[row]
        except Exception as error:
            raise self.odd(row, f"reading it raised {type(error).__name__}: {error}; expected an item") from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise self.odd(row, f"it is {type(item).__name__}; expected (image, label)")
        return item

    def _content(self, row: int, image: Any) -> bytes:
        """An image's pixels; nothing if it can't be read, which is told where it is decoded."""
        image = self._image(row, image)
        try:
            return np.asarray(image).tobytes()
        except Exception:  # noqa: BLE001 - of broken data Pillow raises whatever it runs into
            return b""

    def _image(self, row: int, image: Any) -> "Image.Image | NDArray[np.uint8]":
        if isinstance(image, Image.Image):
            return image
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = image.float() if image.dtype == torch.bfloat16 else image  # numpy has none
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.size:
            pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
                pixels = np.rint(pixels * 255).astype(np.uint8)
            if pixels.dtype == np.uint8:
                return np.ascontiguousarray(pixels)
        raise self.odd(
            row,
            f"its image is {type(image).__name__} {pixels.dtype} {list(pixels.shape)}; expected an image of Pillow's, "
            "or a tensor [H, W], [1, H, W] or [3, H, W] of bytes or of floats from 0 to 1, not normalised",
        )

    def odd(self, row: int, what: str) -> DataError:
        return DataError(f"{self.where}, item {row}: {what}. Correct the dataset.")


class _Targets:
    """The targets of a dataset's items. What was read is kept, as long as it is little: items may be dear."""

    def __init__(self, items: _Items, kind: Targets) -> None:
        self._items, self._kind = items, kind
        self._kept: dict[int, RawTarget] = {}
        self._room = _KEPT_BYTES

    def __call__(self, rows: Sequence[int]) -> Sequence[RawTarget]:
        return [self._kept[row] if row in self._kept else self._read(row) for row in rows]

    def look(self, row: int) -> tuple[int, int]:
        """An item's stratum, and the highest class that it asks for."""
        raw = self._read(row)
        if self._room >= raw[0].nbytes:
            self._kept[row] = raw
            self._room -= raw[0].nbytes
        return self._kind.stratum(raw[0]), self._kind.outputs(raw[0]) - 1

    def _read(self, row: int) -> RawTarget:
        image, target = self._items.item(row)
        size = self._items.size(row, image)
        try:
            return self._kind.read(target, size), size
        except ValueError as error:
            raise self._items.odd(row, str(error)) from error
