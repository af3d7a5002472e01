"""`hf-stream:`: parquet files read in parts, for what fits neither memory nor a disk: from the hub, a bucket, a folder.

Footers and labels are read first; images come by row group when they are asked for, and few row groups are kept.
"""

import hashlib
import math
import re
import socket
import tempfile
from collections.abc import Collection, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.data._base import SOURCES
from autoslim.data._cache import FolderCache
from autoslim.data._columns import TESTS, choose_columns, describe_columns, find_train
from autoslim.data._files import find_splits
from autoslim.data._listing import Found, Listing, locate
from autoslim.data._parquet import Place, RowGroups, Table
from autoslim.data._pieces import Pieces
from autoslim.errors import DataError, describe_error
from autoslim.ranks import Ranks

_NAME = "hf-stream"
_WINDOW = 2**30  # bytes of encoded images that are mixed with each other
_KEPT = 2 * _WINDOW  # bytes of them that are kept: what is mixed, and what workers fetch ahead
_CONNECTIONS = 16
_HUB = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?()")  # name, revision; and a folder, in a URL only
_HUB_URL = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@(refs/[^/@]+/[^/@]+|[^/@]+))?(/.+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PINNED = re.compile(r"hf://datasets/[^@]+@[0-9a-f]{40}(?:/|$)")  # nothing there can change
_ETAGS = ("ETag", "etag", "md5Hash")  # what buckets and servers call the mark of a file's content
_LOOKED_AT = 4096  # bytes in the middle of a file without such a mark


@contextmanager
def list_stream(place: str) -> Generator[Found, None, None]:
    """Lists a data set of parquet files; image and label columns are found as for hf:.

    `place` is a name on the hub (user/name, user/name@revision), a folder, or any URL of a folder that fsspec reaches.

    Raises:
        DataError: It can't be reached, has no parquet files, or no column of images or of labels.
    """
    url, spec = _pin(place)
    where = f"{_NAME}:{place}"
    source = Place(url, where)
    splits, features = find_splits(source)
    train = find_train(where, splits)
    wanted = [train, *(name for name in TESTS if name in splits and name != train)]
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        opened = {name: list(pool.map(partial(Table.open, source), splits[name])) for name in wanted}
        columns = describe_columns(features or opened[train][0].features)
        chosen = choose_columns(where, train, columns, _Streamed(opened, pool))
        used = [table for name in (train, chosen.test) if name is not None for table in opened[name]]
        files = tuple(zip((table.path for table in used), pool.map(_mark, used), strict=True))
    with tempfile.TemporaryDirectory(prefix="autoslim-", ignore_cleanup_errors=True) as own:
        scratch = _share_folder(own)

        def list_split(name: str) -> Listing:
            sizes = [size for table in opened[name] for size in table.sizes(chosen.image)]
            cache = FolderCache(Path(scratch) / name, max(_KEPT, 3 * max(sizes, default=0)))
            read = RowGroups(opened[name], chosen.image, cache, name)
            rows = np.arange(len(chosen.labels[name]))
            pieces = _mix(read.group_of(rows), chosen.labels[name], sizes, cache.limit)
            return Listing(rows, chosen.labels[name], read, pieces)

        test = None if chosen.test is None else list_split(chosen.test)
        yield Found(list_split(train), test, chosen.classes, chosen.notes, files=files, spec=f"{_NAME}:{spec}")


@dataclass(frozen=True)
class _Streamed:
    """The splits, each some files; columns are read whole, and by several connections at once."""

    opened: Mapping[str, Sequence[Table]]
    pool: ThreadPoolExecutor

    def splits(self) -> Sequence[str]:
        return list(self.opened)

    def count(self, split: str) -> int:
        return sum(table.footer.num_rows for table in self.opened[split])

    def values(self, split: str, column: str) -> Sequence[Any]:
        read = self.pool.map(partial(Table.read, column=column), self.opened[split])
        return [value for table in read for value in table.column(0).to_pylist()]

    def distinct(self, split: str, column: str) -> Collection[Any]:
        return set(self.values(split, column))


def _share_folder(own: str) -> str:
    """One folder for all processes of a run that are on this machine: the first one's."""
    host = socket.gethostname()
    folder = next(folder for name, folder in Ranks.here().gather((host, own)) if name == host)
    return folder if Path(folder).is_dir() else own  # two containers may have one name


def _mix(groups: NDArray[np.int64], labels: NDArray[np.int64], sizes: Sequence[int], limit: int) -> Pieces:
    """The row groups of the images, how many of them are mixed, and what to tell of it."""
    count, total = max(len(sizes), 1), max(sum(sizes), 1)
    window = max(math.floor(_WINDOW * count / total), 1)
    told = "Images are fetched by row group when their turn comes"
    if window < count:
        told += (
            f", and about {len(groups) * window // count} images ({window} row groups of {count}) are mixed at a time"
        )
    told += f"; at most {limit / 2**20:.0f} MiB of them are kept, in {tempfile.gettempdir()}."
    return Pieces(groups, window, told + (_describe_sorted(groups, labels) if window < count else ""))


def _describe_sorted(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
    """What to tell where row groups hold far fewer classes than by chance: no window can make up for that."""

    def classes(each: NDArray[np.int64]) -> float:
        return len(np.unique(np.stack([groups, each]), axis=1).T) / len(np.unique(groups))

    here, by_chance = classes(labels), classes(np.random.default_rng(0).permutation(labels))
    if here > by_chance / 2:
        return ""
    return (
        f" They seem to be sorted: a row group has images of {here:.1f} classes, and would have {by_chance:.1f} by "
        "chance. So a window shows few classes at a time, which may cost accuracy: shuffle them before they are "
        "written."
    )


def _mark(table: Table) -> str:
    """What tells a file from another of its name: size, footer, and a mark of its content, or a part of it."""
    info = table.place.info(table.path)
    content = "\n".join(str(info[key]) for key in _ETAGS if info.get(key)).encode()
    if not content and not _PINNED.match(table.place.url):
        content = table.place.read(table.path, table.size // 2, min(_LOOKED_AT, table.size // 2))
    return hashlib.sha256(table.digest.encode() + content).hexdigest()[:16]


def _pin(place: str) -> tuple[str, str]:
    """The URL of a place, and the place once more; those of the hub with the commit that is there now."""
    folder = locate(place)
    if place and folder.is_dir():
        return folder.resolve().as_uri(), place
    on_hub = _HUB_URL.fullmatch(place) or (None if place.startswith(("/", ".", "~")) else _HUB.fullmatch(place))
    if on_hub is None and "://" in place:
        return place, place
    if on_hub is None:
        raise DataError(
            f"{_NAME}:{place}: there is no such folder; expected a folder with parquet files, a name on the hub like "
            f"ylecun/mnist, or a URL of a folder. Check the path, seen from {Path.cwd()}."
        )
    name, revision, inner = on_hub.groups()
    pinned = revision is not None and _COMMIT.fullmatch(revision)
    at = f"{name}@{revision}" if pinned else _find_commit(place, name, revision)
    url = f"hf://datasets/{at}{inner or ''}"
    return url, url if inner else at


def _find_commit(place: str, name: str, revision: str | None) -> str:
    """NAME@COMMIT, as the hub writes it now."""
    hub: Any = import_module("huggingface_hub")
    try:
        found = hub.HfApi().dataset_info(name, revision=revision)
        return f"{found.id}@{found.sha}"
    except Exception as error:  # the hub's own errors, those of its HTTP library, the network's
        raise DataError(
            f"{_NAME}:{place}: can't be found; tried a folder of this name (there is none), then the hub. "
            f"{describe_error(error)}. Expected a data set that your token is good for. Check the name, the "
            "network and `hf auth whoami`, or give a folder."
        ) from error


SOURCES.register(_NAME, list_stream)
