"""Which sizes a network's integers are, and the expression of sizes that says so at every batch, map and width.

Each dimension of each recorded tensor has a size in several *scenes*: the recorded runs (another batch, another image
size) and draws of widths, where the labels tell how many channels are left. An integer of the model's code is such a
vector too. The expression that gives the same vector replaces it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import fx

Values = tuple["int | None", ...]  # one per scene; None: whatever it is
_SIZES = "sizes in scenes"


@dataclass(frozen=True)
class Scenes:
    """What is known of a network's sizes.

    Attributes:
        runs: The recorded runs, as graphs with the same nodes.
        kept: Per draw of widths which labels are kept, bool [draws, labels].
        stored: Path, shape and labels of every parameter and buffer.
    """

    runs: Sequence[fx.Graph]
    kept: torch.Tensor
    stored: Mapping[str, tuple[Sequence[int], Mapping[int, torch.Tensor]]]

    def attach(self) -> list[fx.Node]:
        """Writes the sizes of every tensor in every scene on the nodes of the first run.

        Returns:
            A new node for each parameter and buffer, after the inputs; those that stay without a user are to be erased.
        """
        for nodes in zip(*(run.nodes for run in self.runs), strict=True):
            first = nodes[0]
            if "sizes" in first.meta:
                first.meta[_SIZES] = [
                    tuple(node.meta["sizes"][dim] for node in nodes) + self.count(first, dim, size)
                    for dim, size in enumerate(first.meta["sizes"])
                ]
        graph = self.runs[0]
        stored: list[fx.Node] = []
        with graph.inserting_after([node for node in graph.nodes if node.op == "placeholder"][-1]):
            for path, (shape, labels) in self.stored.items():
                node = graph.get_attr(path)
                node.meta["labels"] = labels
                node.meta[_SIZES] = [
                    (size,) * len(self.runs) + self.count(node, dim, size) for dim, size in enumerate(shape)
                ]
                stored.append(node)
        return stored

    def count(self, node: fx.Node, dim: int, stop: int) -> tuple[int, ...]:
        """How many of the first `stop` slots of a dimension are kept, for each draw of widths."""
        labels = node.meta["labels"].get(dim)
        if labels is None:
            return (stop,) * len(self.kept)
        return tuple(self.kept[:, labels[:stop]].sum(1).tolist())

    def literal(self, values: Iterable[int]) -> Values:
        """An integer as the runs saw it; at other widths it may be anything."""
        return (*values, *(None for _ in self.kept))


def sizes_of(node: Any) -> list[tuple[int, ...]]:
    """Per dimension of a recorded tensor its size in each scene; nothing for any other node."""
    return node.meta.get(_SIZES, []) if isinstance(node, fx.Node) else []


@dataclass(frozen=True)
class Expression:
    """The product of some sizes x `times` // `over`."""

    sizes: tuple[tuple[fx.Node, int], ...]
    times: int = 1
    over: int = 1


class Finder:
    """Finds an expression for an integer among the sizes known so far."""

    def __init__(self, stored: Sequence[fx.Node]) -> None:
        self._seen: dict[tuple[int, ...], tuple[fx.Node, int]] = {}
        self._stored: dict[tuple[int, ...], tuple[fx.Node, int]] = {}
        for node in stored:
            self._see(node, self._stored)

    def see(self, node: fx.Node) -> None:
        """From here on the sizes of `node` can be used."""
        self._see(node, self._seen)

    @staticmethod
    def _see(node: fx.Node, places: dict[tuple[int, ...], tuple[fx.Node, int]]) -> None:
        for dim, size in enumerate(sizes_of(node)):
            if len(set(size)) > 1:
                places.setdefault(size, (node, dim))

    def find(self, values: Values, near: Sequence[fx.Node]) -> Expression | None:
        """An expression with these values: one size of a tensor `near`, several, or any tensor's or parameter's."""
        own = [[(node, dim) for dim, size in enumerate(sizes_of(node)) if len(set(size)) > 1] for node in near]
        alone = [(place,) for places in own for place in places]
        together = [group for n in (2, 3, 4) for places in own for group in combinations(places, n)]
        anywhere = [(place,) for places in (self._seen, self._stored) for place in places.values()]
        for exact in (alone, anywhere):
            for group in exact:
                if _ratio(values, group) == (1, 1):
                    return Expression(group)
            for group in (*alone, *together) if exact is alone else exact:
                ratio = _ratio(values, group)
                if ratio is not None:
                    return Expression(group, *ratio)
        return None


def _ratio(values: Values, group: tuple[tuple[fx.Node, int], ...]) -> tuple[int, int] | None:
    """(p, q) if `values` are the products of the group's sizes x p // q in every scene."""
    products = [math.prod(scene) for scene in zip(*(sizes_of(node)[dim] for node, dim in group), strict=True)]
    pairs = [(v, product) for v, product in zip(values, products, strict=True) if v is not None]
    value, size = pairs[0]
    if size == 0 or any(v * size != product * value for v, product in pairs):
        return None
    shared = math.gcd(value, size)
    return value // shared, size // shared
