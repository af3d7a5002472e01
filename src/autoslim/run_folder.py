"""The files a run leaves: each written whole or not at all, and a folder that never holds two runs.

Where several processes share a run, the first one writes, and what the others write goes nowhere.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from autoslim.errors import RunFolderError
from autoslim.ranks import Ranks

_TYPE, _VERSION = "Run", 1


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside `path`, then puts it there in one step: a reader sees the old one or the new."""
    if not Ranks.here().first:
        return
    aside = path.with_name(f".{path.name}.part")
    try:
        write(aside)
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    text = json.dumps(data, indent=1) + "\n"
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_json(path: Path, *, kind: str, version: int = 1, versions: Sequence[int] = ()) -> dict[str, Any]:
    """Reads what `write_json` wrote; RunFolderError if it is missing, broken, or of another kind or version.

    Args:
        path: The file.
        kind: Its type.
        version: The one that is known.
        versions: Several of them, where they are read alike.
    """
    known = versions or (version,)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"`{path.name}` is missing in {path.parent}. Expected a folder that `autoslim run` wrote. "
            "Give that folder, or run again."
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"`{path.name}` in {path.parent} can't be read: {error}. Expected JSON. Restore the file or run again."
        ) from error
    if not isinstance(data, dict) or data.get("_type") != kind or data.get("_version") not in known:
        found = (data.get("_type"), data.get("_version")) if isinstance(data, dict) else type(data).__name__
        raise RunFolderError(
            f"`{path.name}` in {path.parent} is {found}; expected {kind!r}, version {' or '.join(map(str, known))}. "
            "Use the version of autoslim that wrote it, or run again."
        )
    return data


def _cut_torn(path: Path) -> None:
    """Cuts off a last line without an end, which a kill or a full disk has left."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if size and file.read() != b"\n":
            file.seek(0)
            os.truncate(path, file.read().rfind(b"\n") + 1)


_HELD = set[int]()  # descriptors of the folders that this process keeps


def _let_go(folder: int) -> None:
    _HELD.discard(folder)
    os.close(folder)


def _forget_held() -> None:
    """A child that lives on for a while, as a data worker does, must not keep what its parent kept."""
    for folder in tuple(_HELD):
        _let_go(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_held)


class RunFolder:
    """One run's folder. `run.json` says whose it is; the other files are written by the stages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def check(path: Path) -> None:
        """Refuses, with RunFolderError, a folder that holds anything."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "another run" if (path / "run.json").exists() else "other files"
            raise RunFolderError(
                f"The output folder {path} holds {what}; expected a new or empty one. Choose another with --out"
                + (f", or go on with that run: autoslim run --resume {path}" if what == "another run" else "")
                + "."
            )

    @classmethod
    def create(cls, path: Path, started: Mapping[str, Any]) -> "RunFolder":
        """Claims an empty or new folder; `started` says what for (its configuration and command)."""
        if not Ranks.here().first:
            return cls(path)
        cls.check(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "run.json", {"_type": _TYPE, "_version": _VERSION, **started})
        except OSError as error:
            raise RunFolderError(
                f"The output folder {path} can't be made: {error}. Expected a place to write. Choose another --out."
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> tuple["RunFolder", dict[str, Any]]:
        """An existing run's folder and what it was started with."""
        return cls(path), read_json(path / "run.json", kind=_TYPE, version=_VERSION)

    @contextlib.contextmanager
    def held(self) -> Generator[None, None, None]:
        """Keeps the folder to this process: no other goes on with what is made in it meanwhile.

        Where files can't be locked, on Windows and on some network drives, nothing is kept.

        Raises:
            RunFolderError: Another process holds it.
        """
        with contextlib.ExitStack() as stack:
            if fcntl is not None and Ranks.here().first:
                folder = os.open(self.path, os.O_RDONLY)  # the folder itself: a file may be replaced meanwhile
                _HELD.add(folder)
                stack.callback(_let_go, folder)
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise RunFolderError(
                        f"Another process is at work in {self.path}; expected one at a time. Wait for it, "
                        "or end it (it leaves a checkpoint) and come again."
                    ) from error
                except OSError:  # a file system without locks
                    pass
            yield

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Appends one JSON line and puts it on the disk before returning."""
        if not Ranks.here().first:
            return
        path = self.path / name
        with path.open("ab") as file:
            if fcntl is not None:  # searches of one run share a file
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            _cut_torn(path)
            file.write(f"{json.dumps(line)}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def rewrite(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Puts other lines into a file that `append` made, all or none."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_whole(self.path / name, lambda aside: aside.write_text(text, encoding="utf-8"))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file that `append` made, but a last one without an end: torn by a kill, or being written."""
        path = self.path / name
        if not path.exists():
            return []
        data = path.read_bytes()
        try:
            return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        except ValueError as error:
            raise RunFolderError(
                f"`{name}` in {self.path} has a line that is not JSON: {error}. Expected one object a line. "
                "Restore the file or run again into a new folder."
            ) from error

    def seconds(self) -> dict[str, float]:
        """Time spent per stage, summed over all sessions of this run."""
        total: dict[str, float] = {}
        for line in self.lines("times.jsonl"):
            if "stage" in line:
                total[line["stage"]] = round(total.get(line["stage"], 0.0) + line["seconds"], 3)
        return total


@contextlib.contextmanager
def whole_folder(path: Path) -> Generator[Path, None, None]:
    """A folder that appears at `path` complete or not at all; yields where to write meanwhile."""
    aside = path.with_name(f".{path.name}.part")
    if not Ranks.here().first:
        yield aside
        return
    remove_folder(aside)
    aside.mkdir(parents=True)
    try:
        yield aside
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        remove_folder(aside)


def remove_folder(folder: Path) -> None:
    """Removes a folder, if it is there, and all that is in it; what links in it point to stays."""
    if folder.exists():
        shutil.rmtree(folder)


def _sync(path: Path) -> None:
    """Puts a file, or a folder's list of files, on the disk: no name without its content after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
