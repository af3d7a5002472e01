"""What a network has to do at given widths, in numbers that grow with its running time: the columns of a fit."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from autoslim.graph import ChannelGraph, Count, Term

Array = NDArray[np.float64]

_VECTOR = 16  # channels that a processor's widest vectors hold: kernels round up to them
_UNEVEN = (4, 8, 16)  # channels that are no multiples of these may be refused by the fast kernels


def make_workload(graph: ChannelGraph, atoms: NDArray[np.int64]) -> tuple[Array, Array]:
    """Columns for N sub-networks: those that all layers of a kind share, and those of each layer.

    Multiply-accumulates: exact, with channels rounded up to whole vectors, and those of layers whose channels are no
    multiples of 4, 8 and 16; elements put out, and those by such layers; weights; all tensors made; and a constant.

    Args:
        graph: The network's.
        atoms: Atoms kept, [N, groups].

    Returns:
        Shared columns [N, S], and each layer's own [N, L].
    """
    shapes = dict(graph.parameters)
    kinds: defaultdict[str, list[Array]] = defaultdict(list)
    layers: list[Array] = []
    for term in graph.macs:
        shape = shapes.get(f"{term.module}.weight", ())
        ties = sum(bool(factor.per_atom) for factor in term.factors)  # 1: depthwise, or the first layer
        kind = f"{term.kind}, {ties} widths, {'window' if int(np.prod(shape[2:])) > 1 else 'point'}"
        exact, rounded = _value(term, atoms), _value(term, atoms, multiple=_VECTOR)
        kinds[kind].append(exact)
        kinds[f"{kind}, rounded"].append(rounded)
        for multiple in _UNEVEN:
            kinds[f"{kind}, uneven {multiple}"].append(exact * _uneven(term, atoms, multiple))
        kinds["weights"].append(_value(Term("", "", 1, term.factors), atoms) * max(float(np.prod(shape[2:])), 1.0))
        layers += [exact, rounded]
    for term in graph.outputs:
        exact = _value(term, atoms)
        kinds["outputs"].append(exact)
        for multiple in _UNEVEN:
            kinds[f"outputs, uneven {multiple}"].append(exact * _uneven(term, atoms, multiple))
        layers.append(exact)
    for tensor in graph.activations:
        kinds["tensors"].append(_value(tensor.elements, atoms))
    shared = [np.ones(len(atoms)), *(np.sum(columns, axis=0) for columns in kinds.values())]
    return np.stack(shared, axis=1), np.stack(layers, axis=1) if layers else np.zeros((len(atoms), 0))


def _value(term: Term, atoms: NDArray[np.int64], *, multiple: int = 1) -> Array:
    product = np.full(len(atoms), float(term.scale))
    for factor in term.factors:
        product *= _count(factor, atoms, multiple)
    return product


def _count(factor: Count, atoms: NDArray[np.int64], multiple: int) -> Array:
    slots = np.full(len(atoms), float(factor.constant))
    for group, per_atom in factor.per_atom:
        slots += per_atom * atoms[:, group]
    return np.ceil(slots / multiple) * multiple if factor.per_atom else slots


def _uneven(term: Term, atoms: NDArray[np.int64], multiple: int) -> Array:
    """1 where some width of the layer is no multiple, else 0."""
    varying = [_count(factor, atoms, 1) for factor in term.factors if factor.per_atom]
    return np.any([slots % multiple != 0 for slots in varying], axis=0).astype(np.float64) * np.ones(len(atoms))
