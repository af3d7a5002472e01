"""What a sub-network costs, as a function of its widths alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autoslim._registry import Registry, unknown_name
from autoslim.budget import MEASURED
from autoslim.errors import ConfigError, WidthsError
from autoslim.graph import ChannelGraph, Term

Convention = Literal["standard", "paper"]


class Cost(ABC):
    """A cost in closed form: exact, and cheap enough for thousands of widths at once.

    The number of slots kept on any axis is affine in the atoms kept per group, so every operator's share is a scale
    times a product of affine functions: two matrix products price any number of widths.
    """

    def __init__(self, graph: ChannelGraph, *, macs_convention: Convention = "standard") -> None:
        if macs_convention not in get_args(Convention):
            raise ConfigError(
                f"{type(self).__name__}: macs_convention is {macs_convention!r}; expected 'standard' or 'paper'. "
                "Leave it out for the standard one."
            )
        self.graph = graph
        terms = self.terms(graph, macs_convention)
        depth = max((len(term.factors) for term in terms), default=0)
        self._scale = np.array([term.scale for term in terms], dtype=np.float64)
        # [depth, terms, groups + 1]: constant in the last column; a term with fewer factors has ones for the rest
        self._factors = np.zeros((depth, len(terms), len(graph.groups) + 1))
        self._factors[:, :, -1] = 1
        for row, term in enumerate(terms):
            for level, count in enumerate(term.factors):
                self._factors[level, row, -1] = count.constant
                for group, slots in count.per_atom:
                    self._factors[level, row, group] = slots

    @abstractmethod
    def terms(self, graph: ChannelGraph, convention: Convention) -> tuple[Term, ...]:
        """The operators' shares, as the convention counts them."""

    def __call__(self, widths: Mapping[str, int]) -> float:
        """The cost at these widths, in `unit`; WidthsError if they don't fit the graph."""
        return float(self._price(self.graph.atoms(widths)[None])[0])

    def many(self, widths: "Sequence[Mapping[str, int]] | NDArray[np.integer]") -> NDArray[np.float64]:
        """The cost of many widths at once, shape [N].

        Args:
            widths: N mappings, or an integer array [N, groups] of channels in the order of `graph.groups`.
        """
        return self._price(atoms_of(self.graph, widths))

    def _price(self, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._multiply(atoms) @ self._scale

    def _multiply(self, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """The product of each term's factors, without its scale; shape [N, terms]."""
        # float64 is exact here: all are whole numbers below 2**53, and its matrix product is the fast one
        known = np.concatenate([atoms, np.ones((len(atoms), 1))], axis=1)
        product = np.ones((len(atoms), len(self._scale)))
        for factor in self._factors:
            product *= known @ factor.T
        return product


def atoms_of(graph: ChannelGraph, widths: "Sequence[Mapping[str, int]] | NDArray[np.integer]") -> NDArray[np.int64]:
    """Atoms kept per sub-network and group, shape [N, groups], of what `Cost.many` takes; WidthsError if it is none."""
    per_atom = np.array([group.atom for group in graph.groups], dtype=np.int64)
    if not isinstance(widths, np.ndarray):
        return np.array([graph.atoms(w) for w in widths], dtype=np.int64).reshape(-1, len(per_atom))
    if widths.ndim != 2 or widths.shape[1] != len(per_atom):
        raise WidthsError(
            f"Cost.many: an array of shape {widths.shape}; expected [N, {len(per_atom)}], a column for each "
            "of graph.groups in order."
        )
    sizes = per_atom * np.array([group.atoms for group in graph.groups])
    if (widths % per_atom).any() or (widths < per_atom).any() or (widths > sizes).any():
        raise WidthsError(
            "Cost.many: some widths are not whole atoms between one atom and the group's size. "
            "Use multiples of Group.atom."
        )
    return widths // per_atom


COSTS: Registry[type[Cost]] = Registry("cost")


def check_metric(name: str) -> None:
    """Raises UnknownNameError unless a budget may limit `name`: it is one of `COSTS` or of `MEASURED`."""
    if name not in COSTS and name not in MEASURED:
        raise unknown_name("cost", name, [*COSTS, *MEASURED])


def make_cost(name: str, graph: ChannelGraph, *, macs_convention: Convention = "standard") -> Cost:
    """The cost of that name ("macs", "params", "memory") for a graph; `cost(widths)` and `cost.many(...)` price widths.

    Args:
        name: One of `COSTS`; "flops" is the paper's word for MACs.
        graph: From `trace_channels`.
        macs_convention: "standard" counts the MACs of convolutions and matrix products, and all parameters. "paper"
            counts as the paper's table does: MACs plus the elements that average pools take in, and only the weights
            of convolutions and the weights and biases of linear layers as parameters, in `memory` too.

    Raises:
        UnknownNameError: No such cost; the message lists the closest.
        ConfigError: No such convention; or one of `MEASURED`, which takes a network.

    >>> import torch; from torch import nn; from autoslim import trace_channels
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    >>> graph = trace_channels(model, torch.zeros(1, 3, 6, 6))
    >>> params, paper = make_cost("params", graph), make_cost("params", graph, macs_convention="paper")
    >>> params({"0": 4, "2": 2}), paper({"0": 4, "2": 2})
    (130.0, 116.0)
    """
    if name in MEASURED:
        raise ConfigError(
            f"make_cost: {name!r} follows from measurements, not from the graph; expected one of {', '.join(COSTS)}. "
            f"Call make_{name}(model, graph, x)."
        )
    return COSTS["macs" if name == "flops" else name](graph, macs_convention=macs_convention)
