"""Numbers that a network's code computes from the sizes of its tensors: they remember how.

`y.sum(1) / y.shape[1]` divides by a number that is no argument of a known meaning, and that equals a number of channels
perhaps by chance. So sizes are given to the code as integers that carry their formula along through its arithmetic.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

Path = tuple["int | str", ...]  # where in (args, kwargs) a number stands

_OPERATORS = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow")


@dataclass(frozen=True)
class Size:
    """The size of a recorded tensor along a dimension; `channels` if that has labels."""

    node: fx.Node
    dim: int
    channels: bool


@dataclass(frozen=True)
class Formula:
    """An operator's result; its sides are formulas, sizes, or numbers of the code's own."""

    apply: Callable[[Any, Any], Any]
    left: "Formula | Size | int | float"
    right: "Formula | Size | int | float"

    @property
    def channels(self) -> bool:
        return any(side.channels for side in (self.left, self.right) if isinstance(side, (Formula, Size)))


class CountedInt(int):
    """An integer with its formula."""

    formula: Formula | Size


class CountedFloat(float):
    """A float with its formula."""

    formula: Formula | Size


def counted(value: Any, formula: Formula | Size) -> Any:
    """The value with its formula; one that is neither an integer nor a float as it is."""
    kind = {int: CountedInt, float: CountedFloat}.get(type(value))
    if kind is None:
        return value
    number = kind(value)
    number.formula = formula
    return number


def plain(value: Any) -> Any:
    """A number without its formula; anything else as it is."""
    return int(value) if isinstance(value, CountedInt) else float(value) if isinstance(value, CountedFloat) else value


def _computed(apply: Callable[[Any, Any], Any], *, reflected: bool) -> Callable[[Any, Any], Any]:
    def compute(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if reflected else (self, other)
        formula = Formula(apply, getattr(left, "formula", left), getattr(right, "formula", right))
        return counted(apply(plain(left), plain(right)), formula)

    return compute


def _negated(self: Any) -> Any:
    return counted(-plain(self), Formula(operator.sub, 0, self.formula))


for _name in _OPERATORS:
    for _kind in (CountedInt, CountedFloat):
        setattr(_kind, f"__{_name}__", _computed(getattr(operator, _name), reflected=False))
        setattr(_kind, f"__r{_name}__", _computed(getattr(operator, _name), reflected=True))
CountedInt.__neg__ = CountedFloat.__neg__ = _negated


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf of nested arguments, slices included, with its path."""
    if isinstance(value, (tuple, list)):
        for index, part in enumerate(value):
            yield from leaves(part, (*path, index))
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from leaves(part, (*path, str(name)))
    elif isinstance(value, slice):
        for name in ("start", "stop", "step"):
            yield from leaves(getattr(value, name), (*path, name))
    else:
        yield path, value
