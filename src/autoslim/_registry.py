"""Names to things, typed: refuses duplicates, and a miss names the closest match; so do settings with a few values."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar, get_args, get_origin, get_type_hints

from autoslim.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: Sequence[str], *, hint: str = "") -> UnknownNameError:
    """The error for a name that is not among `known`: what, the closest ones, and `hint` as what to do."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    nearest = f"Closest: {', '.join(close)}." if close else f"Known: {', '.join(sorted(known)[:12])}."
    return UnknownNameError(f"Unknown {kind} {name!r}. {nearest}{' ' + hint if hint else ''}")


def check_choices(config: object, owner: type) -> None:
    """Refuses, with ConfigError, a value that is none of those that its field's type, a Literal, names.

    Args:
        config: Settings.
        owner: The dataclass whose fields are looked at: that of `config`, or what it is derived from.
    """
    for name, kind in get_type_hints(owner).items():
        value, known = getattr(config, name), get_args(kind)
        if get_origin(kind) is not Literal or value in known:
            continue
        close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.4)
        raise ConfigError(
            f"{owner.__name__}.{name} is {value!r}; expected one of {', '.join(known)}. "
            f'Write "{close[0] if close else known[0]}", or another of them.'
        )


class Registry(Mapping[str, T]):
    """A mapping that is filled once, at import, by the files of a shelf."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        """Adds `item`; a name taken by another item is a programming error and raises ValueError."""
        if self._items.setdefault(name, item) is not item:
            raise ValueError(f"the {self.kind} {name!r} is registered twice")
        return item

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise unknown_name(self.kind, name, list(self._items)) from None

    def __contains__(self, name: object) -> bool:  # Mapping's own would build the closest matches for each miss
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
