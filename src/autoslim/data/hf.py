"""Data sets that the Hugging Face library `datasets` reads: from a local folder (parquet, image folders) or the hub."""

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoslim.data._base import SOURCES
from autoslim.data._listing import File, Found, Listing, locate
from autoslim.errors import DataError

_TESTS = ("test", "validation", "valid", "val")  # in the order of preference
_FEW = 1000  # distinct values that a column without a class type may have to count as labels
_LABEL_NAMES = ("label", "labels", "class", "target")  # decide only between several columns that all could be it


@dataclass(frozen=True)
class _Column:
    """A column: `kind` is "image", "class", "plain" (integers or strings) or "other"; `type` is for messages."""

    name: str
    kind: str
    type: str
    classes: tuple[str, ...] = ()


@contextmanager
def list_hf(place: str) -> Generator[Found, None, None]:
    """Lists a data set; image and label columns are found by their type.

    Raises:
        DataError: It can't be loaded, or has no column of images or of labels.
    """
    # A local folder is read through a cache that goes with the context: nothing is left beside the user's data. What
    # comes from the hub stays in the library's own cache, or each run would download it again.
    with tempfile.TemporaryDirectory(prefix="autoslim-", ignore_cleanup_errors=True) as scratch:
        splits, columns = _load(place, scratch)
        train_name = _find_train(place, splits)
        image, label, notes = _find_columns(place, splits[train_name], columns)
        classes = label.classes or tuple(sorted(_distinct(splits[train_name], label)))
        numbers = {name: _number(split[label.name][:], classes, label) for name, split in splits.items()}
        test_name = _find_test(train_name, numbers)
        unlabelled = "test" in splits and "test" not in (train_name, test_name)
        if unlabelled or test_name not in (None, "test"):
            reason = "The test split has no labels" if unlabelled else "There is no test split"
            notes = (*notes, f"{reason}: {test_name or 'a part of train'} serves as test.")
        names = label.classes or tuple(str(value) for value in classes)

        def list_split(name: str) -> Listing:
            images = splits[name].select_columns([image.name])
            return Listing(np.arange(len(numbers[name])), numbers[name], _Cells(images, image.name))

        yield Found(list_split(train_name), None if test_name is None else list_split(test_name), names, notes)


@dataclass(frozen=True)
class _Cells:
    """The images of a column, encoded, by row."""

    images: Any
    column: str

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        cells = self.images[rows][self.column]
        return [(_cell_name(cell, row), _cell_file(cell)) for cell, row in zip(cells, rows, strict=True)]


def _load(place: str, scratch: str) -> tuple[Mapping[str, Any], tuple[_Column, ...]]:
    """The splits by name, their images left encoded, and what their columns are."""
    import datasets  # heavy: only who asks for hf: pays for it

    folder = locate(place)
    local = bool(place) and folder.is_dir()
    if not local and (not place or place.startswith(("/", ".", "~")) or place.count("/") > 1):
        raise DataError(
            f"hf:{place}: there is no such folder; expected a folder with parquet files or images, or a name on the "
            f"hub like ylecun/mnist. Check the path, seen from {Path.cwd()}."
        )
    hidden = datasets.are_progress_bars_disabled()
    if not hidden:
        datasets.disable_progress_bars()
    try:
        if local:
            loaded = datasets.load_dataset(str(folder.resolve()), cache_dir=scratch)
        else:
            loaded = datasets.load_dataset(place)
    except Exception as error:  # it raises nearly everything: its own errors, pyarrow's, the network's
        tried = "reading this folder" if local else "a folder of this name (there is none), then the hub"
        raise DataError(
            f"hf:{place}: can't be loaded; tried {tried}. {type(error).__name__}: {error}. Expected parquet files or "
            "images. Check the name and the network, or give a local folder: hf:PATH."
        ) from error
    finally:
        if not hidden:
            datasets.enable_progress_bars()

    splits: dict[str, Any] = {str(name): split for name, split in loaded.items()}
    columns: list[_Column] = []
    for name, feature in next(iter(splits.values())).features.items():
        if isinstance(feature, datasets.Image):
            columns.append(_Column(name, "image", "Image"))
            # left encoded: one truncated image must not end the loading of all
            splits = {key: split.cast_column(name, datasets.Image(decode=False)) for key, split in splits.items()}
        elif isinstance(feature, datasets.ClassLabel):
            columns.append(_Column(name, "class", "ClassLabel", tuple(feature.names)))
        else:
            dtype = str(getattr(feature, "dtype", type(feature).__name__))
            plain = isinstance(feature, datasets.Value) and dtype.lstrip("u").startswith(("int", "string", "large_s"))
            columns.append(_Column(name, "plain" if plain else "other", dtype))
    return splits, tuple(columns)


def _find_train(place: str, splits: Mapping[str, Any]) -> str:
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else next(iter(splits))
    raise DataError(f"hf:{place}: no train split among {', '.join(splits)}; expected one of that name. Rename a split.")


def _find_test(train: str, labels: Mapping[str, Any]) -> str | None:
    """The split that serves as test: one with images and labels; hubs publish test splits with all labels -1."""
    return next((name for name in _TESTS if name in labels and name != train and (labels[name] >= 0).any()), None)


def _find_columns(place: str, split: Any, columns: Sequence[_Column]) -> tuple[_Column, _Column, tuple[str, ...]]:
    """The image and the label column, and a note where there was a choice."""
    images = [column for column in columns if column.kind == "image"]
    labels = [column for column in columns if column.kind == "class"]
    if not labels:
        most = min(_FEW, len(split) // 2)  # an identifier differs from row to row
        labels = [c for c in columns if c.kind == "plain" and 2 <= len(_distinct(split, c)) <= most]
        named = [column for column in labels if column.name.lower() in _LABEL_NAMES]
        labels = labels if len(labels) == 1 else named
    if not images or not labels:
        missing = "images (type Image)" if not images else "labels (type ClassLabel, or few integers or strings)"
        listed = ", ".join(f"{column.name} ({column.type})" for column in columns)
        raise DataError(
            f"hf:{place}: no column of {missing} could be told among: {listed}. Expected one of images and one of "
            "labels. Cast the column with the datasets library's cast_column, or rename it to label."
        )
    notes = tuple(
        f"Column {found[0].name} gives the {what}; not used: {', '.join(column.name for column in found[1:])}."
        for what, found in (("images", images), ("labels", labels))
        if len(found) > 1
    )
    return images[0], labels[0], notes


def _distinct(split: Any, column: _Column) -> set[Any]:
    """The values that occur; a missing one is none."""
    return set(split.unique(column.name)) - {None}


def _number(values: Sequence[Any], classes: Sequence[Any], label: _Column) -> Any:
    """Labels as int64 [N]; what has no label becomes -1, what is none of the classes their number."""
    if label.classes:
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    index = {value: number for number, value in enumerate(classes)}
    return np.array([-1 if value is None else index.get(value, len(classes)) for value in values], dtype=np.int64)


def _cell_name(cell: Mapping[str, Any] | None, row: int) -> str:
    return f"row {row}" if cell is None or not cell["path"] else f"row {row}, {cell['path']}"


def _cell_file(cell: Mapping[str, Any] | None) -> File:
    return None if cell is None else cell["bytes"] or cell["path"]


SOURCES.register("hf", list_hf)
