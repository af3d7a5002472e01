"""WebDataset shards: tar files with an image and its class under one name. Indexed once, then read at any place.

Only the headers and the classes are read to make the index, and nothing is unpacked: a shard can name no path that is
written to, its links and sparse files are passed over, and what it says of sizes is held against the file's own.
"""

import os
import re
import tarfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoslim.data._base import SOURCES
from autoslim.data._listing import File, Found, Listing, locate, name_some, number_classes
from autoslim.errors import DataError
from autoslim.progress import say_many

_TRAIN = "train"  # words in the names of shards; tests in the order of preference
_TESTS = ("test", "val", "valid", "validation")
_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "ppm"})
_LABEL = "cls"
_DIGITS, _LARGEST = 20, 2**28  # bytes of a class, and of an image, at most


@dataclass(frozen=True)
class _Shards:
    """Where each image lies: the number of its shard, its first byte there, its length."""

    paths: tuple[str, ...]
    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    keys: NDArray[np.bytes_]

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> tuple[str, File]:
        path = self.paths[self.shard[row]]
        name = f"{Path(path).name}, {os.fsdecode(self.keys[row])}"
        try:
            with open(path, "rb") as file:
                file.seek(int(self.start[row]))
                return name, file.read(int(self.length[row]))
        except OSError:
            return name, None


@contextmanager
def list_webdataset(place: str) -> Generator[Found, None, None]:
    """Lists the samples that have an image and a .cls with a whole number; others are told as notes.

    A sample's files are called alike up to the first dot.

    `place` is a folder with shards that have train and test, val, valid or validation in their names (without any train
    those that have no such word are train, and if all have one, all are), or a pattern of train shards:
    shards-{000..146}.tar, shards-*.tar.

    Raises:
        DataError: No shards, compressed or broken ones, some without such a sample or with two images of one, or labels
            that are no whole numbers.
    """
    train, test, notes = _find(place)
    parts: list[Listing] = []
    left, dotted = 0, list[str]()
    for paths in (train, test):
        if paths:
            listing, others, more = _index(place, paths)
            left, dotted = left + others, dotted + more
            parts.append(listing)
    told = _describe_left(left, dotted)
    if not all(map(len, parts)):
        raise DataError(
            f"webdataset:{place}: no sample of {'test' if len(parts[0]) else 'train'} has an image and a .{_LABEL}; "
            f"expected KEY.jpg, or another image, and KEY.{_LABEL} for each. {' '.join(told)} Write shards like that."
        )
    notes = (*notes, *told)
    classes = number_classes(f"webdataset:{place}", *(listing.labels for listing in parts))
    yield Found(parts[0], parts[1] if test else None, classes, notes)


def expand_braces(pattern: str) -> Iterator[str]:
    """What {000..146} and {a,b} stand for.

    >>> list(expand_braces("a-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    >>> list(expand_braces("{x,y}"))
    ['x', 'y']
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        choices = [str(number).zfill(len(span[1])) for number in range(int(span[1]), int(span[2]) + 1)]
    else:
        choices = match[1].split(",")
    for choice in choices:
        yield from expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])


def _find(place: str) -> tuple[list[str], list[str], tuple[str, ...]]:
    """The shards of train and of test, and notes."""
    root = str(locate(place))
    if place and os.path.isdir(root):
        shards = sorted(str(path) for path in Path(root).glob("*.tar"))
        train = _named(shards, [_TRAIN]) or sorted({*shards} - {*_named(shards, _TESTS)})
        if train:
            return _divide(shards, train)
    else:
        one_by_one = [sorted(glob(path)) if has_magic(path) else [path] for path in expand_braces(root) if place]
        shards = [path for paths in one_by_one for path in paths]
    missing = [path for path in shards if not os.path.isfile(path)]
    if missing or not shards:
        raise DataError(
            f"webdataset:{place}: there is no shard {missing[0] if missing else 'of that name'}; expected tar files, "
            f"or a folder with some. Check the pattern (shards-{{000..146}}.tar, shards-*.tar), seen from {Path.cwd()}."
        )
    return shards, [], ()


def _divide(shards: Sequence[str], train: list[str]) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Likewise for a folder's shards of which some are known to be train."""
    others = sorted({*shards} - {*train})
    found = ((word, _named(others, [word])) for word in _TESTS)
    word, test = next(((word, paths) for word, paths in found if paths), ("", []))
    notes: list[str] = []
    if word not in ("", "test"):
        notes.append(f"There are no test shards: those with {word} in their names serve as test.")
    left = [Path(path).name for path in sorted({*others} - {*test})]
    if left:
        what = f"neither {_TRAIN} nor {word or 'test'}"
        notes.append(f"Not used: {say_many(len(left), 'shard')}, {what}: {name_some(left)}.")
    return train, test, tuple(notes)


def _named(shards: Sequence[str], words: Sequence[str]) -> list[str]:
    """Those with one of these words in their names, and not as a part of another word."""
    pattern = re.compile(rf"(?<![a-z])({'|'.join(words)})(?![a-z])")
    return [path for path in shards if pattern.search(Path(path).name.lower())]


def _index(place: str, paths: Sequence[str]) -> tuple[Listing, int, list[str]]:
    """All samples of some shards, the number of those left out, and classes that are no sample's, by name.

    Only headers and labels are read.
    """
    found: list[tuple[int, int, int, str, int]] = []
    dotted: list[str] = []
    left = 0
    for shard, path in enumerate(paths):
        keys: set[str] = set()
        images: dict[str, tuple[int, int]] = {}
        labels: dict[str, int] = {}
        try:
            end = os.path.getsize(path)
            with tarfile.open(path, "r:") as tar:  # not compressed: there would be no reading at a place
                for member in tar:
                    if member.size < 0:  # the next one would lie before it, for ever
                        raise tarfile.ReadError(f"{member.name} has a size below 0")
                    key, suffix = _split_name(member.name)
                    if member.isdir() or not os.path.basename(key):  # a hidden file
                        continue
                    keys.add(key)
                    dotted += [member.name] if suffix.endswith(f".{_LABEL}") else []
                    if not member.isfile() or member.sparse is not None or suffix not in (*_IMAGES, _LABEL):
                        continue
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} is cut off")
                    if key in (labels if suffix == _LABEL else images):
                        raise _second(place, path, member.name)
                    if suffix == _LABEL:
                        labels[key] = _read_label(place, path, tar, member)
                    elif member.size <= _LARGEST:
                        images[key] = member.offset_data, member.size
                _check_end(path, tar.offset)
        except (tarfile.TarError, OSError) as error:
            raise DataError(
                f"webdataset:{place}: {path} can't be read: {error}. Expected a tar file that is not compressed. "
                "Replace it, or unpack it (gunzip)."
            ) from error
        both = images.keys() & labels.keys()
        left += len(keys - both)
        found += [(shard, *images[key], key, labels[key]) for key in sorted(both)]
    numbers = [np.array([sample[at] for sample in found], dtype=np.int64) for at in (0, 1, 2, 4)]
    samples = np.array([os.fsencode(sample[3]) for sample in found], dtype=np.bytes_)
    read = _Shards(tuple(paths), numbers[0], numbers[1], numbers[2], samples)
    return Listing(np.arange(len(found)), numbers[3], read), left, dotted


def _describe_left(left: int, dotted: Sequence[str]) -> tuple[str, ...]:
    """Notes on samples that are not complete, and on classes that are no sample's."""
    notes = (f"{left} samples have no image or no .{_LABEL}, and are left out.",) if left else ()
    if dotted:
        told = f"Not used: {say_many(len(dotted), 'file')} with a further dot before .{_LABEL}: {name_some(dotted)}."
        notes = (*notes, f"{told} A sample's key ends at the first dot.")
    return notes


def _second(place: str, path: str, name: str) -> DataError:
    return DataError(
        f"webdataset:{place}: {path}, {name} is the second image or class of its key; expected one of each in a shard. "
        "Give each sample a key of its own, and further images another suffix (KEY.mask.png)."
    )


def _check_end(path: str, offset: int) -> None:
    """Raises ReadError unless an empty block ends the shard there: tarfile also stops at one it can't read."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it is broken or cut off at byte {offset}")


def _split_name(name: str) -> tuple[str, str]:
    """The key, up to the first dot of the file's name, and the suffix after it."""
    folder, _, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return f"{folder}/{key}" if folder else key, suffix.lower()


def _read_label(place: str, path: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    text = b"" if file is None else file.read(_DIGITS + 1)
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text):
        raise DataError(
            f"webdataset:{place}: {path}, {member.name} holds {text[:20]!r}; expected a whole number, the class. "
            "Write the shards with the class's number in .cls."
        )
    return int(text)


SOURCES.register("webdataset", list_webdataset)
