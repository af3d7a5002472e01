"""JSON files of a run folder as nodes: each value knows its file and its place there, and tells them if it is odd."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.errors import RunFolderError
from autoslim.tasks import Metric

ADVICE = "Give the folder of a finished run, or run again into it."
_METRICS = ("macs", "params", "memory")  # every run has them
_MORE_METRICS = ("peak_memory", "latency")  # peak memory in newer runs, latency where a budget limits it


@dataclass(frozen=True)
class Node:
    """A value in a JSON file that knows where it stands, so that every complaint can say so."""

    file: Path
    where: str
    value: Any

    def error(self, expected: str) -> RunFolderError:
        found = "missing" if self.value is None else f"{str(self.value)[:60]!r} ({type(self.value).__name__})"
        return RunFolderError(f"`{self.file}`: {self.where} is {found}; expected {expected}. {ADVICE}")

    def typed(self, name: str, *versions: int) -> "Node":
        """Itself, if it is an object of type `name` and one of the versions, by default 1."""
        known = versions or (1,)
        told = (self.value.get("_type"), self.value.get("_version")) if isinstance(self.value, dict) else (None, None)
        if told[0] != name or told[1] not in known:
            raise self.error(f'a JSON object with "_type": "{name}" and "_version": {" or ".join(map(str, known))}')
        return self

    def at(self, key: str) -> "Node":
        """The child of that name; absent and null are a node of value None."""
        if not isinstance(self.value, dict):
            raise self.error("a JSON object")
        inner = key if self.where in ("the file", "") else f"{self.where}.{key}"
        return Node(self.file, inner, self.value.get(key))

    def each(self) -> "list[Node]":
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [Node(self.file, f"{self.where}[{index}]", value) for index, value in enumerate(self.value)]

    def fields(self) -> "dict[str, Node]":
        if not isinstance(self.value, dict):
            raise self.error("a JSON object")
        return {str(key): self.at(key) for key in self.value}

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("a text")
        return self.value

    def whole(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.error("a whole number")
        return self.value

    def number(self, low: float, high: float, expected: str) -> float:
        """A finite number in [low, high]."""
        value = self.value
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(expected)
        return float(value)

    def cost(self) -> float:
        return self.number(math.ulp(0.0), 1e300, "a number above 0")

    def finite(self) -> float | None:
        """A number, or None where it is not finite (a training that failed)."""
        value = self.value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error("a number")
        return float(value) if math.isfinite(value) else None

    def fraction(self) -> float | None:
        """A fraction from 0 to 1, or None where the stage was not run."""
        return None if self.value is None else self.number(0, 1, "a fraction from 0 to 1, or null where not run")

    def score(self, scale: Metric) -> float | None:
        """The task's metric as people are told it, None where the stage was not run."""
        if scale.share or self.value is None:
            return self.fraction()
        return self.number(-1e300, 1e300, "a finite number, or null where not run")

    def worth(self, scale: Metric) -> float:
        """The same from the number of which more is better, which the files of a search hold."""
        if scale.share and scale.higher:
            return self.number(0, 1, "a fraction from 0 to 1")
        low, high = (-1, 0) if scale.share else (-1e300, 1e300)
        return scale.turn(self.number(low, high, f"a number from {low:g} to {high:g}"))

    def costs(self) -> dict[str, float]:
        """Metric to cost."""
        more = [name for name in _MORE_METRICS if self.at(name).value is not None]
        return {name: self.at(name).cost() for name in (*_METRICS, *more)}

    def widths(self) -> dict[str, int]:
        """Group to channels."""
        return {name: item.whole() for name, item in self.fields().items()}


def open_json(file: Path, kind: str, *versions: int) -> Node:
    """A whole file, of a type and one of the versions (by default 1)."""
    return _parse(file, _text(file), "the file").typed(kind, *versions)


def open_lines(file: Path, kind: str, *versions: int, growing: bool = False) -> list[Node]:
    """A file of one object a line, each as `open_json` has it.

    One that is `growing` by a later command need not be there yet, and a last line without its end is passed over.
    """
    if growing and not file.exists():
        return []
    text = _text(file)
    lines = (text.rpartition("\n")[0] if growing else text).splitlines()
    whole = [(f"line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    return [_parse(file, line, where).typed(kind, *versions) for where, line in whole]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunFolderError(
            f"`{file}`: no such file; expected the {file.name} that a run leaves there. {ADVICE}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"`{file}`: can't be read ({error}); expected a UTF-8 text file. {ADVICE}") from error


def _parse(file: Path, text: str, where: str) -> Node:
    try:
        return Node(file, where, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"`{file}`: {where} is not JSON ({error}); expected a JSON object. {ADVICE}") from error
