"""A folder that keeps what was fetched, up to a size: shared by all processes that decode, each thing fetched once."""

import contextlib
import mmap
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from autoslim.errors import DataError

_LOCKS = 64  # more than processes that would wait for each other
_SUFFIX = ".kept"


@dataclass(frozen=True)
class FolderCache:
    """Bytes by name. What was not asked for the longest time goes first.

    Attributes:
        folder: Where they lie; made when it is not there.
        limit: Bytes to keep at most, of more than one thing.
    """

    folder: Path
    limit: int

    def get(self, name: str, fetch: Callable[[], bytes]) -> "bytes | mmap.mmap":
        """The bytes of this name, from the folder or fetched now; they stay readable when they go from the folder.

        Raises:
            DataError: The folder can't be written; and whatever `fetch` raises.
        """
        path = self.folder / f"{name}{_SUFFIX}"
        try:
            return _map(path)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{zlib.crc32(name.encode()) % _LOCKS}.lock"):
            try:
                return _map(path)  # fetched by another while this one waited
            except FileNotFoundError:
                content = fetch()
                self._keep(path, content)
                return content

    def _keep(self, path: Path, content: bytes) -> None:
        aside = path.with_suffix(".part")
        try:
            aside.write_bytes(content)
            _mark(aside)
            os.replace(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise DataError(
                f"{path.parent} can't keep {len(content) / 2**20:.1f} MiB that were fetched: {error}. Expected room "
                f"for {self.limit / 2**20:.0f} MiB. Make room there, or name another place with the variable TMPDIR."
            ) from error
        self._trim()

    def _trim(self) -> None:
        """Removes the oldest until the rest is within the limit; the newest stays."""
        kept: list[tuple[int, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX):
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:  # another process was faster
                        continue
                    kept.append((stat.st_mtime_ns, stat.st_size, entry.path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept)[:-1]:
            if total <= self.limit:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


def _map(path: Path) -> mmap.mmap:
    """The file in memory, marked as used now; FileNotFoundError if it is not there."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with contextlib.suppress(FileNotFoundError):  # gone from the folder since
        _mark(path)
    return mapped


def _mark(path: Path) -> None:
    """As used now: file systems of themselves count in milliseconds."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))
