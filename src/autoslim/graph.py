"""ChannelGraph: which slot of which tensor belongs to which channel group. Data that trace makes and all else reads.

A *group* is a set of layers that must keep the same channels. It is made of *atoms*, the smallest units it can lose:
a channel, a whole convolution group, the 49 columns a flattened map gives each channel. An *axis* is one dimension of
one parameter or buffer; each of its *slots* belongs to an atom, or to no group at all. Keeping the first k atoms of
each group therefore selects indices on every axis, and this selection is the only slicing there is.
"""

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim._registry import unknown_name
from autoslim.candidates import channel_unit, make_candidates
from autoslim.errors import ModelError, WidthsError
from autoslim.terms import Activation as Activation
from autoslim.terms import Count as Count
from autoslim.terms import Patch as Patch
from autoslim.terms import Term as Term
from autoslim.widths import Widths

_TYPE, _VERSION = "ChannelGraph", 2


@dataclass(frozen=True)
class Group:
    """Layers that keep the same channels.

    Attributes:
        name: The first layer that makes these channels, e.g. "features.0.0".
        size: Channels at full width.
        atom: Channels in the smallest unit that can be removed; every width is a multiple of it.
        candidates: The widths the search may choose from, ascending, `size` last.
        frozen: Why the width can't change, or None if it can.
        note: What changes in meaning when channels go (a statistic over channels, say), or "".
        layers: The modules whose tensors belong to the group, in the order they run.
        least: No width below so many channels: the user's limit.
        divisor: Widths are multiples of it: likewise.
    """

    name: str
    size: int
    atom: int
    candidates: tuple[int, ...]
    frozen: str | None = None
    note: str = ""
    layers: tuple[str, ...] = ()
    least: int = 1
    divisor: int = 1

    @property
    def atoms(self) -> int:
        return self.size // self.atom

    @property
    def allowed(self) -> tuple[int, ...]:
        """All whole atoms that the user's limit leaves, ascending, `size` last."""
        unit = math.lcm(self.atom, self.divisor)
        return (*range(-(-self.least // unit) * unit, self.size, unit), self.size)

    def fit(self, ratio: float) -> int:
        """The width nearest to `ratio` of the size: whole atoms, at least one; a frozen group stays whole."""
        if self.frozen is not None:
            return self.size
        return min(max(round(self.atoms * ratio), 1), self.atoms) * self.atom


@dataclass(frozen=True)
class Run:
    """`length` consecutive slots of one group: from `atom` on, `repeat` slots for each. `group` -1: no group's."""

    group: int
    atom: int
    length: int
    repeat: int


@dataclass(frozen=True)
class Axis:
    """Dimension `dim` of the parameter or buffer `tensor`, and which atoms its slots belong to."""

    tensor: str
    dim: int
    runs: tuple[Run, ...]

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The group of each slot, -1 for none; shape [size of the dimension]."""
        return np.concatenate([np.full(run.length, run.group) for run in self.runs])

    @cached_property
    def atom(self) -> NDArray[np.int64]:
        """The atom of each slot within its group; shape [size of the dimension]."""
        return np.concatenate([run.atom + np.arange(run.length) // run.repeat for run in self.runs])


def count_slots(owner: NDArray[np.int64], groups: Sequence[Group]) -> Count:
    """The slots kept of a vector whose slots belong to `owner` (-1: no group); each atom has equally many."""
    slots = Counter(owner.tolist())
    return Count(slots.pop(-1, 0), tuple((g, n // groups[g].atoms) for g, n in sorted(slots.items())))


@dataclass(frozen=True)
class ChannelGraph:
    """The channel groups of a network, and all that follows from them; made by `trace_channels`.

    Attributes:
        groups: All groups in the order they run, frozen ones included.
        axes: Every axis of a parameter or buffer on which a group has slots.
        patches: Integer attributes that follow the widths (`Conv2d.groups`, `Linear.in_features`, ...).
        macs: Multiply-accumulates of every convolution and matrix product, for the traced input.
        outputs: Elements put out by every convolution, linear layer and average pool (the paper's activations).
        activations: Every tensor made on the way, with the operators between which it lives.
        pooled: Elements taken in by every average pool (the paper counts one operation each).
        parameters: Name and shape of every parameter, shared ones once.
        inputs: Shapes of the example inputs.
        notes: What the trace could not do, in words; empty if nothing.
    """

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    patches: tuple[Patch, ...]
    macs: tuple[Term, ...]
    outputs: tuple[Term, ...]
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    inputs: tuple[tuple[int, ...], ...]
    pooled: tuple[Term, ...] = ()
    activations: tuple[Activation, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.groups, self.parameters, self.inputs))

    def __hash__(self) -> int:  # the generated one would walk every axis at each look-up of a cached selection
        return self._hash

    def group(self, name: str) -> Group:
        """The group of that name; an unknown one raises UnknownNameError with the closest."""
        for group in self.groups:
            if group.name == name:
                return group
        raise unknown_name("channel group", name, [group.name for group in self.groups])

    # Widths -------------------------------------------------------------------------------------------------------

    def max_widths(self) -> Widths:
        """Every group whole: the network as it was traced."""
        return Widths({group.name: group.size for group in self.groups})

    def min_widths(self) -> Widths:
        """Every group at its lowest candidate: the narrowest sub-network that is trained and searched."""
        return Widths({group.name: group.candidates[0] for group in self.groups})

    def uniform_widths(self, ratio: float) -> Widths:
        """One ratio (0 to 1] for all groups, each rounded to whole atoms."""
        if not 0 < ratio <= 1:
            raise WidthsError(f"uniform_widths: ratio {ratio} is outside (0, 1]. Give for instance 0.5.")
        return Widths({group.name: group.fit(ratio) for group in self.groups})

    def random_widths(self, seed: int) -> Widths:
        """An independent random candidate for each group; the same seed gives the same widths."""
        rng = random.Random(seed)
        return Widths({group.name: rng.choice(group.candidates) for group in self.groups})

    def check(self, widths: Mapping[str, int]) -> None:
        """Raises WidthsError unless `widths` names every group with a whole number of atoms."""
        names = {group.name for group in self.groups}
        if missing := sorted(names - set(widths)):
            raise WidthsError(f"Widths lack the group {missing[0]!r}; expected all {len(names)} groups of the graph.")
        if unknown := sorted(set(widths) - names):
            raise WidthsError(str(unknown_name("channel group", unknown[0], sorted(names))))
        for group in self.groups:
            width = widths[group.name]
            if group.frozen is not None and width != group.size:
                raise WidthsError(
                    f"`{group.name}`: width {width}, but the group is frozen at {group.size} ({group.frozen}). "
                    f"Use {group.size}."
                )
            if width % group.atom or not group.atom <= width <= group.size:
                raise WidthsError(
                    f"`{group.name}`: width {width} is not a multiple of {group.atom} between {group.atom} and "
                    f"{group.size}. Candidates: {', '.join(map(str, group.candidates))}."
                )

    def atoms(self, widths: Mapping[str, int]) -> NDArray[np.int64]:
        """Atoms kept per group, shape [groups], after `check`."""
        self.check(widths)
        return np.array([widths[group.name] // group.atom for group in self.groups], dtype=np.int64)

    @cached_property
    def layouts(self) -> tuple[tuple[Axis, ...], ...]:
        """The axes on which a group that is not frozen has slots, those of the same runs together."""
        free = {index for index, group in enumerate(self.groups) if group.frozen is None}
        alike: dict[tuple[Run, ...], list[Axis]] = {}
        for axis in self.axes:
            if any(run.group in free for run in axis.runs):
                alike.setdefault(axis.runs, []).append(axis)
        return tuple(map(tuple, alike.values()))

    # What follows from widths --------------------------------------------------------------------------------------

    def selection(self, widths: Mapping[str, int]) -> dict[str, dict[int, torch.Tensor]]:
        """The one truth of slicing: {parameter or buffer name: {dim: kept indices, int64, ascending}}.

        Every axis of a group that is not frozen is listed, also where all of it is kept. Axes of one layout share their
        indices, which are not to be written to.
        """
        return _selection(self, Widths(widths))

    def attributes(self, widths: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Attributes that hold numbers of channels, at these widths: {module: {attribute: value}}."""
        atoms = self.atoms(widths)
        values: dict[str, dict[str, Any]] = {}
        for patch in self.patches:
            values.setdefault(patch.module, {})[patch.attribute] = patch.value(atoms)
        return values

    # What the user asks of them ------------------------------------------------------------------------------------

    def freeze(self, which: str | Mapping[str, str], *, reason: str = "kept by the user") -> "ChannelGraph":
        """A copy in which layers keep their shape: the channels that they read and those that they make are frozen.

        Args:
            which: A module's path or a glob over them (`*` passes dots, too): "features.0" means this module and all
                within it, "*.downsample" every module of that name. A group's name does as well. Or {group: reason}.
            reason: Why, for the groups that `which` matches; one that is frozen already keeps its own.

        Raises:
            UnknownNameError: Nothing has that name; the message lists the closest.
        """
        if isinstance(which, str):
            found = self._match(which, [(group.name, *group.layers) for group in self.groups])
            reasons = {group.name: reason for group in found if group.frozen is None}
        else:
            reasons = {self.group(name).name: why for name, why in which.items()}
        groups = tuple(
            replace(group, frozen=reasons[group.name], candidates=(group.size,)) if group.name in reasons else group
            for group in self.groups
        )
        return replace(self, groups=groups)

    def limit(self, which: str, *, min: int | None = None, divisor: int | None = None) -> "ChannelGraph":
        """A copy in which the search chooses from fewer widths for the channels that some layers make.

        The full width always stays a candidate: it is the network as given. A group that is left no other keeps all its
        channels and is frozen with the limit as its reason. The last limit on a group counts.

        Args:
            which: As in `freeze`, but over the layers that make channels (convolutions, matrix products).
            min: No candidate below so many channels; default 0.15 of the size.
            divisor: Candidates are multiples of it; default 8 where the group allows it.

        Raises:
            UnknownNameError: Nothing has that name; the message lists the closest.
            WidthsError: None of the groups is left a choice.

        >>> from autoslim import trace_channels
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 1), torch.nn.Conv2d(64, 4, 1))
        >>> graph = trace_channels(model, torch.ones(1, 3, 8, 8))
        >>> graph.limit("0", min=24, divisor=16).group("0").candidates, graph.freeze("0").group("0").frozen
        ((32, 48, 64), 'kept by the user')
        """
        given = {name: value for name, value in (("min", min), ("divisor", divisor)) if value is not None}
        asked = ", ".join(f"{name}={value}" for name, value in given.items())
        if any(value < 1 for value in given.values()):
            raise WidthsError(f"limit({which!r}): {asked}; expected whole numbers of 1 or more. Give e.g. divisor=16.")
        makers = [{group.name} for group in self.groups]
        for term in (term for term in self.outputs if term.kind != "avg_pool"):
            for index in {index for factor in term.factors for index, _ in factor.per_atom}:
                makers[index].add(term.module)
        free = [group for group in self._match(which, makers) if group.frozen is None]
        limited: dict[str, Group] = {}
        for group in free:
            candidates = make_candidates(group.size, group.atom, divisor=divisor, least=min)
            why = None if len(candidates) > 1 else f"no width below {group.size} meets the limit {asked}"
            limited[group.name] = replace(
                group, candidates=candidates, frozen=why, least=min or 1, divisor=divisor or 1
            )
        if free and all(group.frozen for group in limited.values()):
            unit = channel_unit(free[0].size, free[0].atom, divisor=divisor)
            raise WidthsError(
                f"limit({which!r}, {asked}) leaves `{free[0].name}` no choice: expected a multiple of {unit} from "
                f"{min or 1} to below its {free[0].size} channels. Give a smaller min or divisor, or freeze the group."
            )
        return replace(self, groups=tuple(limited.get(group.name, group) for group in self.groups))

    def _match(self, pattern: str, names: Sequence[Collection[str]]) -> list[Group]:
        """The groups one of whose `names`, or a module that it lies in, matches."""
        modules = [
            {name[:end]: None for name in its for end in range(1, len(name) + 1) if name[end : end + 1] in ("", ".")}
            for its in names
        ]
        found = [
            group
            for group, its in zip(self.groups, modules, strict=True)
            if any(fnmatchcase(module, pattern) for module in its)
        ]
        if not found:
            known = list(dict.fromkeys(module for its in modules for module in its))
            hint = "Give a module's path or a glob such as 'layer4.*'; autoslim trace lists them."
            raise unknown_name("layer or channel group", pattern, known, hint=hint)
        return found

    # On disk and on screen -----------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for group in data["groups"]:
            if (group["least"], group["divisor"]) == (1, 1):  # without a limit as it was before groups told of one
                del group["least"], group["divisor"]
        return {"_type": _TYPE, "_version": _VERSION, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ChannelGraph":
        """The inverse of `to_json`; another type or version raises ModelError."""
        if data.get("_type") != _TYPE or data.get("_version") != _VERSION:
            raise ModelError(
                f"Not a channel graph: _type {data.get('_type')!r}, _version {data.get('_version')!r}; expected "
                f"{_TYPE!r}, version {_VERSION}. Trace the network again."
            )

        def count(item: Mapping[str, Any]) -> Count:
            return Count(item["constant"], tuple((group, slots) for group, slots in item["per_atom"]))

        def term(item: Mapping[str, Any]) -> Term:
            return Term(item["kind"], item["module"], item["scale"], tuple(count(f) for f in item["factors"]))

        def activation(item: dict[str, Any]) -> Activation:
            counted: dict[str, Any] = {"elements": term(item["elements"])}
            return Activation(**{**item, **counted})

        def group(item: dict[str, Any]) -> Group:
            lists: dict[str, Any] = {name: tuple(item[name]) for name in ("candidates", "layers")}
            return Group(**{**item, **lists})

        def patch(item: dict[str, Any]) -> Patch:
            counted: dict[str, Any] = {"counts": tuple(count(each) for each in item["counts"])}
            return Patch(**{**item, **counted})

        return cls(
            groups=tuple(group(item) for item in data["groups"]),
            axes=tuple(
                Axis(item["tensor"], item["dim"], tuple(Run(**r) for r in item["runs"])) for item in data["axes"]
            ),
            patches=tuple(patch(item) for item in data["patches"]),
            macs=tuple(term(item) for item in data["macs"]),
            outputs=tuple(term(item) for item in data["outputs"]),
            pooled=tuple(term(item) for item in data["pooled"]),
            activations=tuple(activation(item) for item in data["activations"]),
            parameters=tuple((name, tuple(shape)) for name, shape in data["parameters"]),
            inputs=tuple(tuple(shape) for shape in data["inputs"]),
            notes=tuple(data["notes"]),
        )

    def __str__(self) -> str:
        lines = [f"{len(self.groups)} channel groups, inputs {' '.join(map(str, self.inputs))}"]
        for group in self.groups:
            what = f"frozen: {group.frozen}" if group.frozen else " ".join(map(str, group.candidates))
            lines.append(
                f"  {group.name:<32} {group.size:>5} / {group.atom:<3} {what}{group.note and '; ' + group.note}"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@lru_cache(maxsize=256)
def _selection(graph: ChannelGraph, widths: Widths) -> dict[str, dict[int, torch.Tensor]]:
    atoms = np.append(graph.atoms(widths), np.iinfo(np.int64).max)  # index -1, no group: always kept
    chosen: dict[str, dict[int, torch.Tensor]] = {}
    for alike in graph.layouts:
        kept = torch.from_numpy(np.flatnonzero(alike[0].atom < atoms[alike[0].owner]))
        for axis in alike:
            chosen.setdefault(axis.tensor, {})[axis.dim] = kept
    return chosen
