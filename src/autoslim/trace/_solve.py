"""From the ledger to the graph: labels that go together become atoms, atoms that look alike become groups."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoslim.graph import Activation, Axis, ChannelGraph, Count, Group, Patch, Run, Term, count_slots, make_candidates
from autoslim.ops import Ledger
from autoslim.trace._run import Trace

Ints = NDArray[np.int64]


_GEOMETRY = {"stride", "padding", "dilation", "kernel_size", "output_padding", "_reversed_padding_repeated_twice"}
# (module, attribute) -> its uses: for each of its integers (one, or those of a tuple or list) the vector it counts
_Held = dict[tuple[str, str], list[tuple["int | torch.Tensor", ...]]]


@dataclass
class _Found:
    """A group while it is collected: `atoms` are its classes in order; `mark` says why it is frozen, or is None."""

    name: str
    per_atom: int
    atoms: list[int]
    mark: str | None
    note: str


def solve(
    trace: Trace, model: nn.Module, inputs: Sequence[tuple[int, ...]], notes: Sequence[str]
) -> tuple[ChannelGraph, Ints]:
    """Reads the ledger once: union of all ties, then groups, axes, attributes and costs.

    Returns:
        The graph, and for each label the group and atom it belongs to, as `decode` reads it.
    """
    ledger = trace.ledger
    classes = _classes(ledger)
    held = _held_integers(ledger, model)
    lengths = [length for uses in held.values() for use in uses for length in use if not isinstance(length, int)]
    found = _collect(ledger, classes, [*lengths, *(vector for tensor in ledger.alive for vector in tensor.factors)])
    owner = np.full(classes.max(initial=-1) + 1, -1)
    atom = np.zeros_like(owner)
    for index, group in enumerate(found):
        owner[group.atoms], atom[group.atoms] = index, np.arange(len(group.atoms))
    axes = _axes(ledger, owner[classes], atom[classes])
    groups = tuple(
        Group(
            name=group.name,
            size=group.per_atom * len(group.atoms),
            atom=group.per_atom,
            candidates=_candidates(group),
            frozen=group.mark,
            note=group.note,
            layers=tuple(layers),
        )
        for group, layers in zip(found, _layers(axes, len(found)), strict=True)
    )

    def count(factor: "int | torch.Tensor") -> Count:
        return Count(factor) if isinstance(factor, int) else count_slots(owner[classes[factor.numpy()]], groups)

    def term(entry: tuple[str, str, int, tuple["int | torch.Tensor", ...]]) -> Term:
        kind, module, scale, factors = entry
        return Term(kind, module, scale, tuple(count(factor) for factor in factors))

    graph = ChannelGraph(
        groups=groups,
        axes=axes,
        patches=_patches(held, model, count),
        macs=tuple(term(entry) for entry in ledger.macs),
        outputs=tuple(term(entry) for entry in ledger.outputs),
        pooled=tuple(term(entry) for entry in ledger.pooled),
        activations=tuple(
            Activation(term(("tensor", t.module, t.scale, t.factors)), t.start, t.stop, t.width, t.batched)
            for t in ledger.alive
        ),
        parameters=tuple((name, tuple(p.shape)) for name, p in model.named_parameters()),
        inputs=tuple(inputs),
        notes=tuple(notes),
    )
    return graph, np.where(owner < 0, -1, owner << 32 | atom)[classes]


def decode(codes: Ints) -> tuple[Ints, Ints]:
    """The group and the atom of each label; (-1, 0) for a label of no group."""
    return np.where(codes < 0, -1, codes >> 32), np.where(codes < 0, 0, codes & 0xFFFFFFFF)


def _classes(ledger: Ledger) -> Ints:
    """The class of each label, shape [labels]: labels that are tied, directly or not, share one."""
    from scipy.sparse import coo_array  # a tenth of what `import torch` takes: only who traces pays for it
    from scipy.sparse.csgraph import connected_components

    if not ledger.ties:
        return np.arange(ledger.size)
    first = torch.cat([a for a, _ in ledger.ties]).numpy()
    second = torch.cat([b for _, b in ledger.ties]).numpy()
    edges = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(ledger.size, ledger.size))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _first_texts(marks: Sequence[tuple[torch.Tensor, str]], classes: Ints, size: int) -> Ints:
    """For each class, the index of the first of `marks` that touches it, or -1; shape [size]."""
    first = np.full(size, -1)
    for index in range(len(marks) - 1, -1, -1):
        first[classes[marks[index][0].numpy()]] = index
    return first


def _collect(ledger: Ledger, classes: Ints, counted: Sequence[torch.Tensor]) -> list[_Found]:
    """Groups in the order they are made: classes with the same slots on the same axes, and the same fate."""
    size = classes.max(initial=-1) + 1
    pinned, noted = _first_texts(ledger.pins, classes, size), _first_texts(ledger.notes, classes, size)
    read, seen = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for vector in ledger.read:
        read[classes[vector.numpy()]] = True
    signatures = _signatures(ledger, classes, counted)
    found: dict[object, _Found] = {}
    names: Counter[str] = Counter()
    for vector, module in ledger.made:
        made, first, counts = np.unique(classes[vector.numpy()], return_index=True, return_counts=True)
        for index in np.argsort(first).tolist():
            c = int(made[index])
            if seen[c]:
                continue
            seen[c] = True
            mark = ledger.pins[pinned[c]][1] if pinned[c] >= 0 else None if read[c] else "nothing reads these channels"
            key = (signatures[c], mark)
            if key not in found:
                names[module] += 1
                name = module if names[module] == 1 else f"{module}#{names[module]}"
                note = ledger.notes[noted[c]][1] if noted[c] >= 0 else ""
                found[key] = _Found(name or "output", int(counts[index]), [], mark, note)
            found[key].atoms.append(c)
    for group in found.values():
        if group.mark is None and len(group.atoms) == 1:
            group.mark = (
                "all its channels stay or go together: the code mixes them (shuffle, softmax, one-channel layer)"
            )
    return list(found.values())


def _signatures(ledger: Ledger, classes: Ints, counted: Sequence[torch.Tensor]) -> Mapping[int, bytes]:
    """For each class, how many slots it has on each axis and in each counted vector.

    Classes with equal signatures are interchangeable: on every axis each has equally many slots, so all counts of
    kept slots are affine in the number of atoms kept.
    """
    costs = (*ledger.macs, *ledger.outputs, *ledger.pooled)
    factors = [factor for *_, factors in costs for factor in factors if not isinstance(factor, int)]
    vectors = [classes[start : start + size] for _, _, start, size in ledger.blocks]
    vectors += [classes[vector.numpy()] for vector in (*factors, *counted)]
    where = np.repeat(np.arange(len(vectors)), [len(vector) for vector in vectors])
    keys, slots = np.unique(np.concatenate(vectors) * len(vectors) + where, return_counts=True)
    owners, where = np.divmod(keys, len(vectors))
    pairs = np.stack([where, slots], axis=1)
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    bounds = [*starts.tolist(), len(owners)]
    return {c: pairs[a:b].tobytes() for c, a, b in zip(owners[starts].tolist(), bounds, bounds[1:], strict=False)}


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


def _held_integers(ledger: Ledger, model: nn.Module) -> _Held:
    """Integer attributes that say how long vectors are: standard ones by name, others by an argument of their value."""
    held: _Held = {}
    for module, attribute, vector in ledger.named:
        held.setdefault((module, attribute), []).append((vector,))
    named = set(held)
    for module, values, vectors in ledger.integers:
        lengths = tuple(value if vector is None else vector for value, vector in zip(values, vectors, strict=True))
        for attribute, value in vars(model.get_submodule(module)).items():
            if (module, attribute) in named or _is_geometry(model.get_submodule(module), attribute):
                continue
            if type(value) is int:
                entries = [(length,) for said, length in zip(values, lengths, strict=True) if said == value]
            else:
                entries = [lengths] if _are_integers(value) and tuple(value) == tuple(values) else []
            if entries:
                held.setdefault((module, attribute), []).extend(entries)
    return held


def _is_geometry(module: nn.Module, attribute: str) -> bool:
    """Whether a layer of torch's own slides by it, so that a number of channels is there by chance."""
    return type(module).__module__.startswith("torch.nn.") and attribute in _GEOMETRY


def _are_integers(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(type(each) is int for each in value)


def _patches(held: _Held, model: nn.Module, count: "Callable[[int | torch.Tensor], Count]") -> tuple[Patch, ...]:
    """One patch for each attribute whose uses agree on what it counts; where they don't, it is left alone."""
    patches: list[Patch] = []
    for (module, attribute), uses in held.items():
        counts, *others = {tuple(count(length) for length in use) for use in uses}
        if not others and any(each.per_atom for each in counts):
            kind = type(getattr(model.get_submodule(module), attribute)).__name__
            patches.append(Patch(module, attribute, counts, kind))
    return tuple(patches)
