"""The state of a training on the disk, so that it can go on in the middle of an epoch as if it had never stopped.

A state is one safetensors file that carries its step and its SHA-256 in its name: a file that was cut off or damaged is
known by its name, and the one before it serves. Nothing in it can run code.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save

from autoslim._tensors import for_disk
from autoslim.errors import RunFolderError
from autoslim.ranks import Ranks
from autoslim.run_folder import remove_folder, write_whole

_VERSION, _KEPT = 1, 2
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{64})\.safetensors")


class State(NamedTuple):
    """Tensors by name, and what else there is: plain JSON."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The last two states of one training.

    Of several processes the first one writes and reads, and tells the others.

    Args:
        folder: Theirs alone.
        identity: What the training is: its network, data, settings. A state of another training is refused.
        minutes: Between two of them, at least, where no epoch ends.
        tell: Called with what the user must know.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        minutes: float = 5.0,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._seconds, self._tell = folder, 60 * minutes, tell
        self._identity: dict[str, Any] = json.loads(json.dumps({"version": _VERSION, **identity}))
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is so long ago that it is time for another."""
        return time.monotonic() - self._last >= self._seconds

    @property
    def latest(self) -> str:
        """The path of the last one, or "none"; for messages."""
        return next((str(path) for path, _, _ in self._files()), "none")

    def save(self, step: int, state: State) -> None:
        """Writes the state after `step` steps whole or not at all; a disk that is full is told, and tried again."""
        self._last = time.monotonic()
        if not Ranks.here().first:
            return
        facts = json.dumps({"identity": self._identity, **state.facts})
        data = save(for_disk(state.tensors), {"autoslim": facts})
        name = f"step-{step:09}-{hashlib.sha256(data).hexdigest()}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._folder.glob(".step-*.part"):  # of a save that was killed
                _remove(part)
            write_whole(self._folder / name, lambda aside: aside.write_bytes(data))
        except OSError as error:
            self._tell(
                f"No checkpoint could be written at step {step}: {error}. The last good one stays: {self.latest}."
            )
            return
        for path, _, _ in self._files()[_KEPT:]:
            _remove(path)

    def load(self) -> State | None:
        """The last state that is whole, or None.

        Raises:
            RunFolderError: It is of another training; the message names the difference.
        """
        data = Ranks.here().tell(self._read() if Ranks.here().first else None)
        if data is None:
            return None
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts: dict[str, Any] = json.loads(header["__metadata__"]["autoslim"])
        theirs: dict[str, Any] = facts.pop("identity")
        for name in {**theirs, **self._identity}:
            if theirs.get(name) != self._identity.get(name):
                found, expected = _differing(theirs.get(name), self._identity.get(name))
                raise RunFolderError(
                    f"The checkpoint {self.latest} is of another training: its {name} is {found!r}; expected "
                    f"{expected!r}. Delete {self._folder} to begin this training anew."
                )
        return State(load(data), facts)

    def remove(self) -> None:
        """Once the training has ended and its result is on the disk."""
        if Ranks.here().first:
            remove_folder(self._folder)
            with contextlib.suppress(OSError):  # others are still in it, or it never was
                self._folder.parent.rmdir()

    def _read(self) -> bytes | None:
        for path, step, digest in self._files():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                self._tell(f"goes on after step {step}, from {path.name[:20]}...")
                return data
            self._tell(f"The checkpoint {path} is damaged (its SHA-256 is not the one in its name) and is not used.")
            _remove(path)  # or it would count among those that are kept
        return None

    def _files(self) -> list[tuple[Path, int, str]]:
        """Path, step and digest of each, the last first."""
        paths = self._folder.iterdir() if self._folder.is_dir() else ()
        found = [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]
        return sorted(((path, int(m[1]), m[2]) for path, m in found), key=lambda each: each[1], reverse=True)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _differing(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two dictionaries what is not the same in both; anything else whole."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one, other
    odd = [name for name in {**one, **other} if name not in one or name not in other or one[name] != other[name]]
    return {name: one[name] for name in odd if name in one}, {name: other[name] for name in odd if name in other}
