"""Closed forms: what follows from the atoms kept of each group, as data. Counts of slots, costs, attributes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Count:
    """A number of slots, affine in the atoms kept: constant + sum of slots per atom x atoms of that group."""

    constant: int
    per_atom: tuple[tuple[int, int], ...] = ()

    def __call__(self, atoms: NDArray[np.int64]) -> int:
        return self.constant + sum(slots * int(atoms[group]) for group, slots in self.per_atom)


@dataclass(frozen=True)
class Term:
    """`scale` x the product of `factors`: one operator's share of a cost; `kind` names it, `module` is its place."""

    kind: str
    module: str
    scale: int
    factors: tuple[Count, ...]

    def __call__(self, atoms: NDArray[np.int64]) -> int:
        return self.scale * math.prod(factor(atoms) for factor in self.factors)


@dataclass(frozen=True)
class Activation:
    """A tensor made on the way: its elements, alive from operator `start` to before operator `stop`.

    `width` is its bytes per element where that is not up to the network's dtype (an index), else 0; `batched` says
    whether it grows with the number of images.
    """

    elements: Term
    start: int
    stop: int
    width: int = 0
    batched: bool = True


@dataclass(frozen=True)
class Patch:
    """An attribute of a module that holds numbers of channels: an "int", or a "tuple" or "list" of them (`kind`)."""

    module: str
    attribute: str
    counts: tuple[Count, ...]
    kind: str = "int"

    def value(self, atoms: NDArray[np.int64]) -> "int | tuple[int, ...] | list[int]":
        """What the attribute is when so many atoms of each group are kept."""
        numbers = [count(atoms) for count in self.counts]
        return numbers[0] if self.kind == "int" else tuple(numbers) if self.kind == "tuple" else numbers
