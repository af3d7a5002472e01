"""Widths: how many channels each group keeps. The one value that search, supernet and extraction exchange."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from operator import index
from typing import Any

from autoslim.errors import WidthsError

_TYPE, _VERSION = "Widths", 1


class Widths(Mapping[str, int]):
    """Group name to channels kept; immutable, hashable, ordered as given.

    >>> widths = Widths({"conv1": 16, "layer1": 32})
    >>> widths.replace(conv1=8)
    Widths({'conv1': 8, 'layer1': 32})
    >>> Widths.from_json(widths.to_json()) == widths
    True
    """

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, int] | Iterable[tuple[str, int]]) -> None:
        try:
            self._items = {str(name): index(width) for name, width in dict(items).items()}
        except TypeError as error:
            raise WidthsError(
                f"Widths {items!r}: {error}. Expected whole numbers of channels, one per group."
            ) from None
        self._hash = hash(frozenset(self._items.items()))

    def replace(self, changes: Mapping[str, int] | None = None, **more: int) -> "Widths":
        """A copy with some widths changed; a name it does not have raises WidthsError."""
        changes = {**(changes or {}), **more}
        if unknown := sorted(set(changes) - set(self._items)):
            raise WidthsError(f"Widths have no group {unknown[0]!r}. Groups: {', '.join(list(self._items)[:12])}.")
        return Widths({**self._items, **changes})

    @property
    def digest(self) -> str:
        """Eight digits that tell these widths from others, in any process: a part of file names."""
        return hashlib.sha256(repr(sorted(self._items.items())).encode()).hexdigest()[:8]

    def to_json(self) -> dict[str, Any]:
        return {"_type": _TYPE, "_version": _VERSION, "widths": dict(self._items)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Widths":
        """The inverse of `to_json`; anything else raises WidthsError."""
        if data.get("_type") != _TYPE or data.get("_version") != _VERSION or not isinstance(data.get("widths"), dict):
            raise WidthsError(
                f"Not a widths file: _type {data.get('_type')!r}, _version {data.get('_version')!r}; expected "
                f"{_TYPE!r}, version {_VERSION}. Give the `widths.json` of a model folder."
            )
        return cls(data["widths"])

    def __getitem__(self, name: str) -> int:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Widths) else NotImplemented

    def __repr__(self) -> str:
        return f"Widths({self._items})"
