"""Which images train, decide and test: written to the run folder once, and the same ever after."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autoslim.data import Encoded, Split
from autoslim.errors import DataError, RunFolderError
from autoslim.ranks import Ranks
from autoslim.run_folder import write_whole

FILE = "splits.npz"
_FILES = "files"
_LOOKED_AT = 64  # images of each part whose contents are kept as digests, evenly spaced

Splits = Mapping[str, NDArray[np.int64]]
Files = Sequence[tuple[str, str]]  # names, and what tells each from another file of that name


def list_splits(files: Files = (), /, **parts: Split | Encoded) -> dict[str, NDArray[np.int64]]:
    """Of each part where in its source each image stands and its label, [2, N]; and digests of some images, [K].

    Where the data set is known by its files, digests of these are kept, [F], and images that would have to be fetched
    are not looked at.

    Raises:
        DataError: Another process of the run sees other images.
    """
    listed: dict[str, NDArray[np.int64]] = {_FILES: _digests(files)} if files else {}
    for name, part in parts.items():
        listed[name] = np.stack([part.rows, part.labels.numpy()])
        if part.pieces is None:
            digests = [hashlib.sha256(part.content(index)).digest()[:8] for index in _looked_at(len(part))]
            listed[f"{name}_digests"] = np.frombuffer(b"".join(digests), dtype="<i8")
    whole = hashlib.sha256(b"".join(each.tobytes() for each in listed.values())).hexdigest()
    told = Ranks.here().gather(whole)
    if len(set(told)) > 1:
        raise DataError(
            f"The processes of this run see different images: process {[each != told[0] for each in told].index(True)} "
            "has others than process 0. Expected the same on all machines. Give all of them the same copy of the data."
        )
    return listed


def write_splits(folder: Path, splits: Splits) -> None:
    """Writes them where they are not there yet."""

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez_compressed(file, **splits)  # pyright: ignore[reportArgumentType]

    if not (folder / FILE).exists():
        write_whole(folder / FILE, write)


def check_splits(folder: Path, splits: Splits, files: Files = ()) -> None:
    """Holds the splits against those that are written; `files` are those that `list_splits` was given.

    Raises:
        RunFolderError: The file says otherwise, the first difference being named, or it can't be read.
    """
    path = folder / FILE
    if not path.exists():
        return
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            odd = _differ_in_files(saved[_FILES], files) if files else ""
            parts = [name for name in splits if name != _FILES]
            odd = odd or next((told for name in parts if (told := _differ(name, saved[name], splits[name]))), "")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunFolderError(
            f"`{FILE}` in {folder} can't be read: {error}. Expected the splits that the run was started with. Restore "
            "the file, or run again."
        ) from error
    if odd:
        raise RunFolderError(
            f"The images are not those that {folder} was started with (`{FILE}`): {odd}. Expected the same, or what "
            "was trained would be tested. Restore the data, or start a new run with another --out."
        )


def _differ(name: str, then: NDArray[np.int64], now: NDArray[np.int64]) -> str:
    """The first difference, in words; "" if there is none."""
    part = name.removesuffix("_digests")
    if then.shape != now.shape:
        return f"{part} has {now.shape[-1]} images, and had {then.shape[-1]}"
    places = np.flatnonzero((then != now).reshape(-1, then.shape[-1]).any(0))
    if not len(places):
        return ""
    first = int(places[0])
    if name != part:
        return f"some images of {part} have other contents"
    (row, label), (old_row, old_label) = now[:, first].tolist(), then[:, first].tolist()
    told = f"image {first} of {part} is number {row} of the source with label {label}"
    return f"{told}, and was number {old_row} with label {old_label}; {len(places)} differ"


def _differ_in_files(then: NDArray[np.int64], files: Files) -> str:
    """The first file that is another, in words; "" if there is none."""
    now = _digests(files)
    if np.array_equal(then, now):
        return ""
    other = [name for (name, _), digest in zip(files, now, strict=True) if digest not in then]
    more = f" and {len(other) - 1} more files" if len(other) > 1 else ""
    if other:
        return f"{other[0]}{more} was not there, or had other contents"
    return f"there are {len(now)} files, and were {len(then)}, or they came in another order"


def _digests(files: Files) -> NDArray[np.int64]:
    digests = (hashlib.sha256(f"{name}\n{mark}".encode()).digest()[:8] for name, mark in files)
    return np.frombuffer(b"".join(digests), dtype="<i8")


def _looked_at(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.int64)).tolist()
