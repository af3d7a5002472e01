"""Which column of a table has the images and which the labels, which split is train and which test.

A column called label is the labels. Without one, what the Hugging Face library `datasets` knows of columns decides;
where it knows of no labels, the values do.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoslim.data._listing import File
from autoslim.errors import DataError

TESTS = ("test", "validation", "valid", "val")  # in the order of preference
_FEW = 1000  # distinct values that a column without a class type may have to count as labels
_LABEL_NAMES = ("label", "labels", "class", "target")  # no other column is taken beside one of these


@dataclass(frozen=True)
class Column:
    """A column: `kind` is "image", "class", "plain" (integers, strings), "bool" or "other"; `type` is for messages."""

    name: str
    kind: str
    type: str
    classes: tuple[str, ...] = ()


class Tables(Protocol):
    """The splits of a data set, each a table with the same columns."""

    def splits(self) -> Sequence[str]: ...
    def count(self, split: str) -> int: ...
    def values(self, split: str, column: str) -> Sequence[Any]: ...
    def distinct(self, split: str, column: str) -> Collection[Any]: ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is what: `labels` by split, int64 [N] each; -1 has no label, and what is no class of train is beyond all."""

    image: str
    test: str | None
    labels: Mapping[str, NDArray[np.int64]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def describe_columns(features: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a data set of `datasets`."""
    import datasets  # heavy: only who asks for such a data set pays for it

    columns: list[Column] = []
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            columns.append(Column(name, "image", "Image"))
        elif isinstance(feature, datasets.ClassLabel):
            columns.append(Column(name, "class", "ClassLabel", tuple(feature.names)))
        else:
            dtype = str(getattr(feature, "dtype", type(feature).__name__))
            plain = isinstance(feature, datasets.Value) and dtype.lstrip("u").startswith(("int", "string", "large_s"))
            columns.append(Column(name, "plain" if plain else "bool" if dtype == "bool" else "other", dtype))
    return tuple(columns)


def find_train(where: str, splits: Collection[str]) -> str:
    """The split to train on: the one of that name, or the only one; DataError if there is neither."""
    if "train" in splits or len(splits) == 1:
        return "train" if "train" in splits else next(iter(splits))
    raise DataError(f"{where}: no train split among {', '.join(splits)}; expected one of that name. Rename a split.")


def choose_columns(where: str, train: str, columns: Sequence[Column], tables: Tables) -> Chosen:
    """Finds images, labels and the test split.

    Args:
        where: The data set, for messages.
        train: The split to train on.
        columns: Of each split.
        tables: The splits; of them only what can be labels is read.

    Raises:
        DataError: No column of images or of labels.
    """
    image, label, notes = _find_columns(where, train, columns, tables)
    classes = label.classes or tuple(sorted(_distinct(tables, train, label)))
    splits = tables.splits()
    labels = {name: _number(tables.values(name, label.name), classes, label) for name in splits}
    test = _find_test(train, labels)
    unlabelled = "test" in splits and "test" not in (train, test)
    if unlabelled or test not in (None, "test"):
        reason = "The test split has no labels" if unlabelled else "There is no test split"
        notes = (*notes, f"{reason}: {test or 'a part of train'} serves as test.")
    return Chosen(image.name, test, labels, label.classes or tuple(str(value) for value in classes), notes)


def cell_name(cell: Mapping[str, Any] | None, row: str) -> str:
    """What an image is called in messages; `row` says where it stands."""
    return row if cell is None or not cell["path"] else f"{row}, {cell['path']}"


def cell_file(cell: Mapping[str, Any] | None) -> File:
    """The encoded image of a cell, or its path."""
    return None if cell is None else cell["bytes"] or cell["path"]


def _find_test(train: str, labels: Mapping[str, Any]) -> str | None:
    """The split that serves as test: one with images and labels; hubs publish test splits with all labels -1."""
    return next((name for name in TESTS if name in labels and name != train and (labels[name] >= 0).any()), None)


def _find_columns(
    where: str, train: str, columns: Sequence[Column], tables: Tables
) -> tuple[Column, Column, tuple[str, ...]]:
    """The image and the label column, and a note where there was a choice."""
    images = [column for column in columns if column.kind == "image"]
    labels = _find_labels(where, columns)
    guessed = not labels
    if guessed:
        most = min(_FEW, tables.count(train) // 2)  # an identifier differs from row to row
        labels = [c for c in columns if c.kind == "plain" and 2 <= len(_distinct(tables, train, c)) <= most]
        labels = labels if len(labels) == 1 else []
    if not images or not labels:
        missing = "images (type Image)" if not images else "labels (type ClassLabel, or few integers or strings)"
        listed = ", ".join(f"{column.name} ({column.type})" for column in columns)
        raise DataError(
            f"{where}: no column of {missing} could be told among: {listed}. Expected one of images and one of "
            "labels. Cast the column with the datasets library's cast_column, or rename it to label."
        )
    notes = tuple(
        f"Column {found[0].name} gives the {what}; not used: {', '.join(column.name for column in found[1:])}."
        for what, found in (("images", images), ("labels", labels))
        if len(found) > 1
    )
    if guessed:
        notes = (
            *notes,
            f"Column {labels[0].name} gives the labels: none is called {', '.join(_LABEL_NAMES)}, and no other one has "
            "few distinct integers or strings.",
        )
    return images[0], labels[0], notes


def _find_labels(where: str, columns: Sequence[Column]) -> list[Column]:
    """The columns that by name or else by type are labels, the one to take first; DataError if it can't be taken."""
    named = [c for c in columns if c.name.lower() in _LABEL_NAMES and c.kind != "image"]
    usable = sorted((c for c in named if c.kind != "other"), key=lambda c: c.kind != "class")
    if named and not usable:
        raise DataError(
            f"{where}: column {named[0].name} is {named[0].type}, which can't be a label; expected ClassLabel, "
            "integers, strings or booleans. Cast it with the cast_column of datasets, or rename it if it holds no "
            "labels."
        )
    return usable + [c for c in columns if c.kind == "class" and c not in usable]


def _distinct(tables: Tables, split: str, column: Column) -> set[Any]:
    """The values that occur; a missing one is none."""
    return set(tables.distinct(split, column.name)) - {None}


def _number(values: Sequence[Any], classes: Sequence[Any], label: Column) -> NDArray[np.int64]:
    """Labels as int64 [N]; what has no label becomes -1, what is none of the classes their number."""
    if label.classes:
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    index = {value: number for number, value in enumerate(classes)}
    return np.array([-1 if value is None else index.get(value, len(classes)) for value in values], dtype=np.int64)
