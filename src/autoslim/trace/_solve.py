"""From the ledger to the graph: labels that go together become atoms, atoms that look alike become groups."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from autoslim.graph import Axis, ChannelGraph, Count, Group, Patch, Run, Term, count_slots, make_candidates
from autoslim.ops import Ledger, find_attributes

Ints = NDArray[np.int64]


@dataclass
class _Found:
    """A group while it is collected: `atoms` are its classes in order; `mark` says why it is frozen, or is None."""

    name: str
    per_atom: int
    atoms: list[int]
    mark: str | None


def solve(ledger: Ledger, model: nn.Module, inputs: Sequence[tuple[int, ...]], notes: Sequence[str]) -> ChannelGraph:
    """Reads the ledger once: union of all ties, then groups, axes, attributes and costs."""
    classes = _classes(ledger)
    found = _collect(ledger, classes)
    owner = np.full(classes.max(initial=-1) + 1, -1)
    atom = np.zeros_like(owner)
    for index, group in enumerate(found):
        owner[group.atoms], atom[group.atoms] = index, np.arange(len(group.atoms))
    axes = _axes(ledger, owner[classes], atom[classes])
    remarks = {int(c): text for vector, text in ledger.notes for c in np.unique(classes[vector.numpy()])}
    groups = tuple(
        Group(
            name=group.name,
            size=group.per_atom * len(group.atoms),
            atom=group.per_atom,
            candidates=_candidates(group),
            frozen=group.mark,
            note=remarks.get(group.atoms[0], ""),
            layers=tuple(layers),
        )
        for group, layers in zip(found, _layers(axes, len(found)), strict=True)
    )

    def count(factor: "int | torch.Tensor") -> Count:
        return Count(factor) if isinstance(factor, int) else count_slots(owner[classes[factor.numpy()]], groups)

    def term(entry: tuple[str, str, int, tuple["int | torch.Tensor", ...]]) -> Term:
        kind, module, scale, factors = entry
        return Term(kind, module, scale, tuple(count(factor) for factor in factors))

    return ChannelGraph(
        groups=groups,
        axes=axes,
        patches=_patches(model, axes, groups),
        macs=tuple(term(entry) for entry in ledger.macs),
        outputs=tuple(term(entry) for entry in ledger.outputs),
        pooled=tuple(term(entry) for entry in ledger.pooled),
        parameters=tuple((name, tuple(p.shape)) for name, p in model.named_parameters()),
        inputs=tuple(inputs),
        notes=tuple(notes),
    )


def _classes(ledger: Ledger) -> Ints:
    """The class of each label, shape [labels]: labels that are tied, directly or not, share one."""
    if not ledger.ties:
        return np.arange(ledger.size)
    first = torch.cat([a for a, _ in ledger.ties]).numpy()
    second = torch.cat([b for _, b in ledger.ties]).numpy()
    edges = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(ledger.size, ledger.size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _collect(ledger: Ledger, classes: Ints) -> list[_Found]:
    """Groups in the order they are made: classes with the same slots on the same axes, and the same fate."""
    pinned: dict[int, str] = {}
    for vector, reason in ledger.pins:
        for c in np.unique(classes[vector.numpy()]):
            pinned.setdefault(int(c), reason)
    read = {int(c) for vector in ledger.read for c in np.unique(classes[vector.numpy()])}
    signatures = _signatures(ledger, classes)
    found: dict[object, _Found] = {}
    seen: set[int] = set()
    names: Counter[str] = Counter()
    for vector, module in ledger.made:
        made = classes[vector.numpy()]
        per_class = Counter(made.tolist())
        for c in dict.fromkeys(made.tolist()):
            if c in seen:
                continue
            seen.add(c)
            mark = pinned.get(c) or (None if c in read else "nothing reads these channels")
            key = (signatures[c], mark)
            if key not in found:
                names[module] += 1
                name = module if names[module] == 1 else f"{module}#{names[module]}"
                found[key] = _Found(name or "output", per_class[c], [], mark)
            found[key].atoms.append(c)
    for group in found.values():
        if group.mark is None and len(group.atoms) == 1:
            group.mark = (
                "all its channels stay or go together: the code mixes them (shuffle, softmax, one-channel layer)"
            )
    return list(found.values())


def _signatures(ledger: Ledger, classes: Ints) -> Mapping[int, tuple[tuple[int, int], ...]]:
    """For each class, how many slots it has on each axis and in each counted vector.

    Classes with equal signatures are interchangeable: on every axis each has equally many slots, so all counts of
    kept slots are affine in the number of atoms kept.
    """
    vectors = [classes[start : start + size] for _, _, start, size in ledger.blocks]
    costs = (*ledger.macs, *ledger.outputs, *ledger.pooled)
    counted = [factor for *_, factors in costs for factor in factors if not isinstance(factor, int)]
    vectors += [classes[vector.numpy()] for vector in counted]
    where = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
    pairs, slots = np.unique(np.stack([np.concatenate(vectors), where]), axis=1, return_counts=True)
    signatures: dict[int, list[tuple[int, int]]] = {}
    for c, block, count in zip(pairs[0].tolist(), pairs[1].tolist(), slots.tolist(), strict=True):
        signatures.setdefault(c, []).append((block, count))
    return {c: tuple(signature) for c, signature in signatures.items()}


def _candidates(group: _Found) -> tuple[int, ...]:
    size = group.per_atom * len(group.atoms)
    return (size,) if group.mark is not None else make_candidates(size, group.per_atom)


def _axes(ledger: Ledger, owner: Ints, atom: Ints) -> tuple[Axis, ...]:
    """The axes on which some slot belongs to a group, as runs; `owner` and `atom` are per label."""
    axes: list[Axis] = []
    for name, dim, start, size in ledger.blocks:
        owners = owner[start : start + size]
        if (owners >= 0).any():
            axes.append(Axis(name, dim, tuple(_runs(owners, np.where(owners < 0, 0, atom[start : start + size])))))
    return tuple(axes)


def _runs(owners: Ints, atoms: Ints) -> Iterable[Run]:
    """Slots as runs: first equal neighbours become one entry, then entries that count upwards become one run."""
    starts = np.flatnonzero(np.diff(owners, prepend=-2) | np.diff(atoms, prepend=-2))
    repeats = np.diff(starts, append=len(owners))
    owners, atoms = owners[starts], atoms[starts]
    follows = (np.diff(owners) == 0) & (np.diff(atoms) == 1) & (np.diff(repeats) == 0)
    bounds = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(owners)]
    for first, last in pairwise(bounds):
        repeat = int(repeats[first])
        if owners[first] < 0:  # no group's: one atom that is always kept
            yield Run(-1, 0, repeat, repeat)
        else:
            yield Run(int(owners[first]), int(atoms[first]), repeat * (last - first), repeat)


def _layers(axes: Sequence[Axis], groups: int) -> list[list[str]]:
    layers: list[dict[str, None]] = [{} for _ in range(groups)]
    for axis in axes:
        for run in axis.runs:
            if run.group >= 0:
                layers[run.group][axis.tensor.rpartition(".")[0]] = None
    return [list(names) for names in layers]


def _patches(model: nn.Module, axes: Sequence[Axis], groups: Sequence[Group]) -> tuple[Patch, ...]:
    by_name = {(axis.tensor, axis.dim): axis for axis in axes}
    patches: list[Patch] = []
    for name, module in model.named_modules():
        for attribute in find_attributes(module):
            axis = by_name.get((f"{name}.{attribute.tensor}" if name else attribute.tensor, attribute.dim))
            if axis is not None:
                count = count_slots(axis.owner, groups)
                scaled = Count(
                    count.constant * attribute.scale, tuple((g, n * attribute.scale) for g, n in count.per_atom)
                )
                patches.append(Patch(name, attribute.name, scaled, attribute.unit))
    return tuple(patches)
