"""Parquet files that are read in parts wherever they lie: footers, one column, one row group, each by its bytes alone.

A file is columns, cut into row groups, and its footer says where each lies. So labels are read without the images, and
an image with its row group alone. Nothing is kept here but footers; row groups go through a `FolderCache`.
"""

import hashlib
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.data._cache import FolderCache
from autoslim.data._columns import cell_name
from autoslim.data._listing import File
from autoslim.errors import DataError, describe_error

_TRIES, _PAUSE = 5, 1.0  # reads of the same bytes, and seconds before the second; twice as long before each further one
_AT_ONCE = 4  # row groups of one batch that are fetched
_NEVER = (FileNotFoundError, PermissionError, IsADirectoryError)  # no patience helps


@dataclass(frozen=True)
class Place:
    """A folder that `fsspec` reaches: on this machine, on the hub, in a bucket.

    Attributes:
        url: With its protocol.
        where: What messages call the data set.
    """

    url: str
    where: str
    _systems: dict[int, Any] = field(default_factory=dict[int, Any], repr=False, compare=False)

    @property
    def system(self) -> Any:
        """The file system, with connections of this process's own: those of its parent are dead where it was forked."""
        process = os.getpid()
        if process not in self._systems:
            fsspec: Any = import_module("fsspec")  # heavy: only who reads such files pays for it
            self._systems[process] = fsspec.core.url_to_fs(self.url)[0]
        return self._systems[process]

    @property
    def root(self) -> str:
        """The folder, as its file system writes it."""
        return self.system._strip_protocol(self.url).rstrip("/")

    def __reduce__(self) -> Any:
        return Place, (self.url, self.where)  # without connections

    def has(self, path: str) -> bool:
        """Whether there is such a file."""

        def look() -> bool:
            try:
                return bool(self.system.info(f"{self.root}/{path}"))
            except FileNotFoundError:
                return False

        return self._patiently(path, "be looked for", look)

    def info(self, path: str) -> dict[str, Any]:
        """What the file system tells of a file: its size at least."""
        return self._patiently(path, "be found", lambda: self.system.info(f"{self.root}/{path}"))

    def read(self, path: str, start: int, length: int) -> bytes:
        """So many bytes of a file, from `start` on.

        Raises:
            DataError: They can't be read, however often it is tried.
        """

        def read() -> bytes:
            with self.system.open(f"{self.root}/{path}", "rb", cache_type="none") as file:  # no byte more than asked
                file.seek(start)
                content = file.read(length)
            if len(content) != length:
                raise EOFError(f"{len(content)} of {length} bytes came")
            return content

        return self._patiently(path, f"be read at byte {start}", read)

    def _patiently(self, path: str, what: str, work: Any) -> Any:
        for further in reversed(range(_TRIES)):
            try:
                return work()
            except Exception as error:  # each file system raises its own
                if not further or isinstance(error, _NEVER):
                    tried = f", tried {_TRIES - further} times" if further < _TRIES - 1 else ""
                    raise DataError(
                        f"{self.where}: {path} can't {what}{tried}: {describe_error(error)}. Expected the file "
                        "to stay within reach, and as it is, for the whole run. Check the network and your rights, "
                        "then go on with --resume."
                    ) from error
                time.sleep(_PAUSE * 2 ** (_TRIES - 1 - further))


@dataclass(frozen=True, eq=False)
class Table:
    """One parquet file, known by its footer."""

    place: Place
    path: str
    size: int
    footer: Any

    @classmethod
    def open(cls, place: Place, path: str) -> "Table":
        """Reads the footer.

        Raises:
            DataError: It can't be read, or is no parquet file's.
        """
        size = int(place.info(path)["size"])
        try:
            footer = import_module("pyarrow.parquet").read_metadata(_Bytes(place, path, size))
        except DataError:
            raise
        except Exception as error:  # pyarrow's own, several kinds
            raise _odd(place, path, error) from error
        return cls(place, path, size, footer)

    @property
    def digest(self) -> str:
        """Of the size and the footer, which says how long each part of each column is."""
        sink = io.BytesIO()
        self.footer.write_metadata_file(sink)
        return hashlib.sha256(b"%d %b" % (self.size, sink.getvalue())).hexdigest()

    @property
    def features(self) -> Any:
        """The columns as `datasets` sees them."""
        return import_module("datasets").Features.from_arrow_schema(self._opened().schema_arrow)

    @property
    def rows(self) -> list[int]:
        """Of each row group."""
        return [self.footer.row_group(number).num_rows for number in range(self.footer.num_row_groups)]

    def sizes(self, column: str) -> list[int]:
        """Bytes that a column takes in each row group, unpacked."""
        groups = (self.footer.row_group(number) for number in range(self.footer.num_row_groups))
        return [
            sum(
                leaf.total_uncompressed_size
                for leaf in (group.column(number) for number in range(group.num_columns))
                if f"{leaf.path_in_schema}.".startswith(f"{column}.")
            )
            for group in groups
        ]

    def read(self, column: str, group: int | None = None) -> Any:
        """A column, or of it one row group: a `pyarrow.Table`. Nothing else is read.

        Raises:
            DataError: It can't be read, or the file has no such column.
        """
        opened = self._opened()
        if column not in opened.schema_arrow.names:
            raise DataError(
                f"{self.place.where}: {self.path} has no column {column}, only {', '.join(opened.schema_arrow.names)}; "
                "expected the same columns in all files. Leave this file out, or write it with that column."
            )
        try:
            if group is None:
                return opened.read(columns=[column], use_threads=False)
            return opened.read_row_group(group, columns=[column], use_threads=False)
        except DataError:
            raise
        except Exception as error:  # pyarrow's own, several kinds
            raise _odd(self.place, self.path, error) from error

    def _opened(self) -> Any:
        # pre_buffer: the bytes of all that is asked for come in one read, not page by page
        file = _Bytes(self.place, self.path, self.size)
        return import_module("pyarrow.parquet").ParquetFile(file, metadata=self.footer, pre_buffer=True)


@dataclass(frozen=True, eq=False)
class RowGroups:
    """The images of some files, by row: the rows of the first file, then those of the second, and so on.

    Attributes:
        tables: The files.
        column: Of the images.
        cache: Where row groups are kept.
        key: Of these files, in the cache.
    """

    tables: Sequence[Table]
    column: str
    cache: FolderCache
    key: str

    @cached_property
    def groups(self) -> list[tuple[Table, int, int]]:
        """Of each row group the file, its number there, and its first row there."""
        return [
            (table, number, sum(rows[:number]))
            for table in self.tables
            for rows in [table.rows]
            for number in range(len(rows))
        ]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each row group, and the number of all rows, shape [G + 1]."""
        return np.cumsum([0, *(rows for table in self.tables for rows in table.rows)], dtype=np.int64)

    def group_of(self, rows: "NDArray[np.int64] | Sequence[int]") -> NDArray[np.int64]:
        """The row group of each row; empty ones are passed over."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        numbers = self.group_of(rows).tolist()
        groups = list(dict.fromkeys(numbers))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            columns = dict(zip(groups, pool.map(self._column, groups), strict=True))
        return [self._cell(columns[number], number, row) for number, row in zip(numbers, rows, strict=True)]

    def _column(self, number: int) -> Any:
        """The images of a row group, from the cache or fetched now."""
        ipc = import_module("pyarrow.ipc")

        def fetch() -> bytes:
            table, group, _ = self.groups[number]
            images, sink = table.read(self.column, group), io.BytesIO()
            with ipc.new_stream(sink, images.schema) as writer:
                writer.write_table(images)
            return sink.getvalue()

        buffer = import_module("pyarrow").py_buffer(self.cache.get(f"{self.key}-{number}", fetch))
        return ipc.open_stream(buffer).read_all().column(0)

    def _cell(self, column: Any, number: int, row: int) -> tuple[str, File]:
        place = row - int(self.starts[number])
        cell, (table, _, first) = column[place].as_py(), self.groups[number]
        name = cell_name(cell, f"{table.path}, row {first + place}")
        return name, None if cell is None else cell["bytes"]  # a path would name a file of who wrote the data set


class _Bytes(io.RawIOBase):
    """A file for pyarrow, read by `Place.read`."""

    def __init__(self, place: Place, path: str, size: int) -> None:
        self._place, self._path, self._size, self._at = place, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        rest = max(self._size - self._at, 0)
        length = rest if size < 0 else min(size, rest)
        content = self._place.read(self._path, self._at, length) if length else b""
        self._at += length
        return content


def _odd(place: Place, path: str, error: Exception) -> DataError:
    return DataError(
        f"{place.where}: {path} can't be read: {describe_error(error)}. Expected an intact parquet file. "
        "Replace it, or leave it out."
    )
