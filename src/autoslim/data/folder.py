"""Images in folders: one folder per class, below train/ and test/ if these are there."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoslim.data._base import SOURCES
from autoslim.data._listing import File, Found, Listing, locate
from autoslim.errors import DataError
from autoslim.progress import say_many

_TESTS = ("test", "val", "valid", "validation")  # in the order of preference
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})


@contextmanager
def list_folder(place: str) -> Generator[Found, None, None]:
    """Lists the images directly inside the class folders, by name.

    Raises:
        DataError: No such folder, a class folder without images, or train and test with different classes.
    """
    root = locate(place)
    if not place or not root.is_dir():
        raise DataError(
            f"folder:{place}: there is no such folder; expected one with a folder per class. Check the path, seen from "
            f"{Path.cwd()}."
        )
    # a class may be called "train", but then it holds images, not folders
    divided = (root / "train").is_dir() and bool(_folders(root / "train"))
    train_root = root / "train" if divided else root
    test_root = next((root / name for name in _TESTS if divided and (root / name).is_dir()), None)
    classes = tuple(folder.name for folder in _folders(train_root))
    if not classes:
        raise DataError(
            f"folder:{place}: no images at all: {train_root} has no class folders; expected one folder per class with "
            "its images. Move the images of each class into a folder of its name."
        )
    train, skipped = _list_classes(place, train_root, classes)
    test = None
    if test_root is not None:
        _check_classes(place, test_root.name, classes, tuple(folder.name for folder in _folders(test_root)))
        test, more = _list_classes(place, test_root, classes)
        skipped += more
    odd = f"Not used: {say_many(skipped, 'file')} in the class folders with no image's name."
    notes = (odd,) if skipped else ()
    if test_root is not None and test_root.name != "test":
        notes = (*notes, f"There is no test folder: {test_root.name} serves as test.")
    yield Found(train, test, classes, notes)


def _list_classes(place: str, root: Path, classes: Sequence[str]) -> tuple[Listing, int]:
    """All images below `root`, and the number of other files there."""
    paths: list[bytes] = []
    labels: list[int] = []
    empty: list[str] = []
    others = 0
    for label, name in enumerate(classes):
        with os.scandir(root / name) as entries:
            files = sorted(each.name for each in entries if not each.name.startswith(".") and each.is_file())
        images = [file for file in files if os.path.splitext(file)[1].lower() in _SUFFIXES]
        others += len(files) - len(images)
        paths += [os.fsencode(os.path.join(name, file)) for file in images]
        labels += [label] * len(images)
        if not images:
            empty.append(name)
    if empty:
        raise DataError(
            f"folder:{place}: no images in the class folders {', '.join(empty)} of {root}; expected files with names "
            "like 1.png or 1.jpg directly in each. Add images, or remove these folders."
        )

    return Listing(np.arange(len(paths)), np.array(labels, dtype=np.int64), _Files(root, np.array(paths))), others


@dataclass(frozen=True)
class _Files:
    """Paths below a folder; in one array, which processes that were forked go on sharing."""

    root: Path
    paths: NDArray[np.bytes_]

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        names = [os.fsdecode(self.paths[row]) for row in rows]
        return [(name, str(self.root / name)) for name in names]


def _check_classes(place: str, name: str, train: Sequence[str], test: Sequence[str]) -> None:
    only = [
        f"only in {where}: {', '.join(sorted(names))}"
        for where, names in (("train", set(train) - set(test)), (name, set(test) - set(train)))
        if names
    ]
    if only:
        raise DataError(
            f"folder:{place}: train and {name} have different class folders, {'; '.join(only)}. Expected the same "
            "names in both. Rename, add or remove folders."
        )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


SOURCES.register("folder", list_folder)
