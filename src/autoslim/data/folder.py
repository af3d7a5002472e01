"""Images in folders: one folder per class, below train/ and test/ if these are there."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoslim.data._base import SOURCES
from autoslim.data._listing import File, Found, Listing, describe_only, locate, name_some
from autoslim.errors import DataError
from autoslim.progress import say_many

_TESTS = ("test", "val", "valid", "validation")  # in the order of preference
_ARCHIVER = "__MACOSX"  # what an archive of macOS leaves beside the class folders
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})


@contextmanager
def list_folder(place: str) -> Generator[Found, None, None]:
    """Lists the images directly inside the class folders, by name.

    Raises:
        DataError: No such folder, a class folder without images, train and test without class folders, or with others.
    """
    root = locate(place)
    if not place or not root.is_dir():
        raise DataError(
            f"folder:{place}: there is no such folder; expected one with a folder per class. Check the path, seen from "
            f"{Path.cwd()}."
        )
    # a class may be called "train", but then it holds images, not folders
    divided = _has_folders(root / "train")
    train_root = root / "train" if divided else root
    test_root = next((root / name for name in _TESTS if divided and _has_folders(root / name)), None)
    classes = tuple(folder.name for folder in _folders(train_root))
    if not classes:
        raise DataError(
            f"folder:{place}: no images at all: {train_root} has no class folders; expected one folder per class with "
            "its images. Move the images of each class into a folder of its name."
        )
    if {name.lower() for name in classes} <= {"train", *_TESTS}:
        raise DataError(
            f"folder:{place}: {train_root} has the folders {', '.join(classes)} alone, splits and no classes; "
            "expected train and test with a folder per class in each. Move the images of each class into a folder of "
            "its name: train/CLASS, test/CLASS."
        )
    train, others, inner = _list_classes(place, train_root, classes)
    test = None
    if test_root is not None:
        _check_classes(place, test_root.name, classes, tuple(folder.name for folder in _folders(test_root)))
        test, more, deeper = _list_classes(place, test_root, classes)
        others, inner = others + more, [*inner, *deeper]
    notes: tuple[str, ...] = ()
    if others:
        notes = (f"Not used: {say_many(others, 'file')} in the class folders with no image's name.",)
    if inner:
        notes = (
            *notes,
            f"Not used: {say_many(sum(count for _, count in inner), 'image')} in folders inside the class folders: "
            f"{name_some([name for name, _ in inner])}. Only what lies directly in a class folder is read.",
        )
    yield Found(train, test, classes, (*notes, *(_describe_splits(root, test_root) if divided else ())))


def _describe_splits(root: Path, test_root: Path | None) -> Iterator[str]:
    """Notes on the folder that serves as test, and on those beside it and train."""
    used = "train" if test_root is None else f"train and {test_root.name}"
    if test_root is not None and test_root.name != "test":
        reason = "The test folder has no class folders" if (root / "test").is_dir() else "There is no test folder"
        yield f"{reason}: {test_root.name} serves as test."
    left = [folder.name for folder in _folders(root) if folder.name != "train" and folder != test_root]
    if left:
        yield f"Not used: {say_many(len(left), 'folder')} beside {used}: {name_some(left)}."


def _list_classes(place: str, root: Path, classes: Sequence[str]) -> tuple[Listing, int, list[tuple[str, int]]]:
    """All images below `root`, the number of other files there, and the folders inside with the images they hold."""
    paths: list[bytes] = []
    labels: list[int] = []
    empty: list[str] = []
    inner: list[tuple[str, int]] = []
    others = 0
    for label, name in enumerate(classes):
        with os.scandir(root / name) as entries:
            seen = sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
        files = [each.name for each in seen if _is_file(each)]
        images = [file for file in files if _is_image(file)]
        others += len(files) - len(images)
        paths += [os.fsencode(os.path.join(name, file)) for file in images]
        labels += [label] * len(images)
        folders = [each for each in seen if os.path.isdir(each.path)] if len(files) < len(seen) else []
        counts = ((os.path.join(root.name, name, each.name), _count_images(each.path)) for each in folders)
        inner += [(folder, count) for folder, count in counts if count]
        if not images:
            empty.append(name)
    if empty:
        raise DataError(
            f"folder:{place}: no images in the class folders {name_some(empty)} of {root}; expected files with names "
            "like 1.png or 1.jpg directly in each. Add images, or remove these folders."
        )

    return (
        Listing(np.arange(len(paths)), np.array(labels, dtype=np.int64), _Files(root, np.array(paths))),
        others,
        inner,
    )


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a file, or a link to nowhere: that one can't be read, as it will show."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES


def _count_images(folder: str) -> int:
    """Those below a folder, however deep."""
    return sum(_is_image(name) for _, _, names in os.walk(folder) for name in names if not name.startswith("."))


@dataclass(frozen=True)
class _Files:
    """Paths below a folder; in one array, which processes that were forked go on sharing."""

    root: Path
    paths: NDArray[np.bytes_]

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        names = [os.fsdecode(self.paths[row]) for row in rows]
        return [(name, str(self.root / name)) for name in names]


def _check_classes(place: str, name: str, train: Sequence[str], test: Sequence[str]) -> None:
    only = describe_only(train, test, name)
    if only:
        raise DataError(
            f"folder:{place}: train and {name} have different class folders, {only}. Expected the same "
            "names in both. Rename, add or remove folders."
        )


def _folders(root: Path) -> list[Path]:
    hidden = (".", _ARCHIVER)
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def _has_folders(root: Path) -> bool:
    """Whether it is a folder with class folders."""
    return root.is_dir() and bool(_folders(root))


SOURCES.register("folder", list_folder)
