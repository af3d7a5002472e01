"""Holds a graph against the model's own code: sub-networks must run, in place and extracted; what breaks is frozen.

The extracted sub-network is traced too. Every operator in it must put out the very channels that are kept of those it
put out at full width: so a cut or a view by numbers of the code's own is seen even where all shapes fit. And what is no
channel must stay as long as it is: an attribute that equals a number of channels by chance, an image's size say, would
slim with them.
"""

import os
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.extract import extract_network
from autoslim.graph import ChannelGraph
from autoslim.ops import Call, Labels, Ledger
from autoslim.supernet import Supernet
from autoslim.trace._run import Key, Trace, double_batch, ignore, is_own_code, place_inputs, run_labelled
from autoslim.trace._solve import Ints, decode
from autoslim.widths import Widths

_LAST = 100  # operators that ran before one that fails, and may be why
_ANY = -2  # the code of a label that may stand for anything


class _Differs(Exception):
    """An operator of a sub-network puts out other channels than the graph says."""

    def __init__(self, message: str, groups: Iterable[int]) -> None:
        super().__init__(message)
        self.groups = set(groups)


@dataclass(frozen=True)
class _Failure:
    reason: str
    suspects: Sequence[set[int]]  # groups that may be to blame, by index, the likeliest first


def probe(graph: ChannelGraph, codes: Ints, trace: Trace, inputs: tuple[Any, ...]) -> ChannelGraph:
    """Freezes the groups that the model's own code can't follow, each with the error it raised.

    Args:
        graph: The graph, as solved.
        codes: Group and atom of each label.
        trace: The forward passes at full width.
        inputs: The example inputs.
    """
    prober = _Prober(codes, trace, place_inputs(inputs, trace.device))
    while True:
        widths, failure, resized = prober.find_failure(graph)
        if failure is None:
            return prober.drop_guesses(graph, resized)
        narrowed = [g for g in graph.groups if g.frozen is None and widths[g.name] < g.size]
        if not narrowed:
            raise AssertionError(f"the whole network does not run as it was traced: {failure.reason}")
        suspects = [[g.name for g in narrowed if graph.groups.index(g) in groups] for groups in failure.suspects]
        blamed = next(filter(None, suspects), [g.name for g in narrowed])
        graph = graph.freeze(dict.fromkeys(blamed, failure.reason))


@dataclass(frozen=True)
class _Prober:
    codes: Ints
    trace: Trace
    inputs: tuple[Any, ...]

    def find_failure(self, graph: ChannelGraph) -> tuple[Widths, _Failure | None, int]:
        """The first of two sub-networks that does not run as the graph says, and why; what the second resizes."""
        widths = _draw(graph)
        failure = self._follow(graph, widths) or self._in_place(graph, widths)
        if failure is not None:
            return widths, failure, 0
        resized: set[Key] = set()
        failure = self._follow(graph, graph.min_widths(), modes=(False,), resized=resized)
        return graph.min_widths(), failure, len(resized)

    def drop_guesses(self, graph: ChannelGraph, resized: int) -> ChannelGraph:
        """Leaves attributes alone that equal a number of channels by chance: without them, less changes its size.

        Args:
            graph: A graph that holds.
            resized: Operators that put out another size at its lowest widths where there are no channels. Values may
                decide about sizes, too: where the network had to be run with them, nothing is dropped.
        """
        standard = {(module, attribute) for module, attribute, _ in self.trace.ledger.named}
        for patch in graph.patches:
            if not resized or self.trace.device != "meta":
                break
            if (patch.module, patch.attribute) not in standard:
                without = replace(graph, patches=tuple(each for each in graph.patches if each is not patch))
                _, failure, left = self.find_failure(without)
                if failure is None and left < resized:
                    graph, resized = without, left
        return graph

    def _follow(
        self,
        graph: ChannelGraph,
        widths: Widths,
        modes: Sequence[bool] = (False, True),
        resized: set[Key] | None = None,
    ) -> _Failure | None:
        """Traces the extracted sub-network beside the full one; notes the operators that put out other sizes."""
        small = extract_network(self.trace.model, graph, widths)
        ledger = Ledger(size=self.trace.ledger.size, policies=self.trace.ledger.policies, counting=False)
        kept = graph.selection(widths)
        tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        labels: dict[str, Labels] = {name: {} for name in tensors}
        for name, dim, start, size in self.trace.ledger.blocks:
            whole = torch.arange(start, start + size)
            labels[name][dim] = whole[kept[name][dim]] if dim in kept.get(name, {}) else whole
        for name, tensor in tensors.items():
            ledger.set_labels(tensor, labels[name])
        atoms = np.append(graph.atoms(widths), np.iinfo(np.int64).max)  # the last: slots of no group
        frozen = np.array([group.frozen is not None for group in graph.groups] + [False])
        codes = np.where(frozen[decode(self.codes)[0]], -1, self.codes)

        def compare(key: Key, call: Call, outs: Sequence[torch.Tensor], found: Sequence[Labels]) -> None:
            known = self.trace.labels.get(key, ()), self.trace.sizes.get(key, ())
            for out, full, sizes, ours in zip(outs, *known, found, strict=False):
                if resized is not None and _is_resized(codes, full, sizes, out.shape):
                    resized.add(key)
                for dim, vector in full.items():
                    size = out.shape[dim] if dim < out.dim() else 0
                    suspects = _differing(codes, atoms, vector, ours.get(dim), size)
                    if suspects:
                        raise _Differs(f"it takes channels by numbers of its own in {call.locate()}", suspects)

        return self._run(small, ledger, compare, modes)

    def _run(self, model: nn.Module, ledger: Ledger, observe: Any, modes: Sequence[bool]) -> _Failure | None:
        """Runs a network in those of the modes that the full one runs in."""
        last: deque[Any] = deque(maxlen=_LAST)

        def watch(key: Key, call: Call, outs: Sequence[torch.Tensor], labels: Sequence[Labels]) -> None:
            last.appendleft((outs, call.args))
            observe(key, call, outs, labels)

        for training, wanted in self.trace.shapes.items():
            if training not in modes:
                continue
            try:
                with_batch = double_batch(self.inputs) if training else self.inputs
                shapes = run_labelled(model.train(training), with_batch, ledger, watch)
            except Exception as error:  # noqa: BLE001 - whatever the model's code raises is the reason
                return self._blame(error, ledger, last)
            if shapes != wanted and self.trace.device == "meta":  # with values, the shapes may depend on them
                return _Failure(f"the output's shape changes from {wanted} to {shapes}", ())
        return None

    def _blame(self, error: Exception, ledger: Ledger, last: Iterable[Any]) -> _Failure:
        """Suspects are what the failing operator was given, activations first, and what ran just before it."""
        if isinstance(error, _Differs):
            return _Failure(f"the model's code can't follow: {error}", [error.groups])
        lines = str(error).splitlines() or [""]
        reason = f"the model's code can't follow: {type(error).__name__}: {lines[0]}{_own_line(error)}"
        tensors = [leaf for leaf in getattr(error, "touched", ()) if isinstance(leaf, torch.Tensor)]
        data = [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]
        touched = [[ledger.labels(leaf) for leaf in tree_leaves(each)] for each in (data, tensors, *last)]
        return _Failure(reason, [self._groups(labels) for labels in touched])

    def _groups(self, labels: Sequence[Labels]) -> set[int]:
        groups: set[int] = set()
        for vector in (vector for each in labels for vector in each.values()):
            known = vector.numpy()
            codes = self.codes[known[known < len(self.codes)]]
            groups |= set(decode(codes[codes >= 0])[0].tolist())
        return groups

    def _in_place(self, graph: ChannelGraph, widths: Widths) -> _Failure | None:
        """Runs the sub-network in place: where it fails and the extracted one does not, tensors are kept elsewhere."""
        net, wanted = Supernet(self.trace.model, graph).eval(), self.trace.shapes[False]
        try:
            with net.at(widths):
                shapes = run_labelled(net, self.inputs, Ledger(counting=False), ignore)
            if shapes != wanted and self.trace.device == "meta":
                return _Failure(f"the output's shape changes in place from {wanted} to {shapes}", ())
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises is the reason
            return _Failure(f"the model's code can't follow in place: {type(error).__name__}: {error}", ())
        return None


def _differing(codes: Ints, atoms: Ints, full: torch.Tensor, ours: torch.Tensor | None, size: int) -> set[int]:
    """The groups in which a dimension of a sub-network differs from what is kept of the `full` one; none if it fits.

    Args:
        codes: Group and atom of each label; -1 for slots that always stay, and may be as many as the inputs say.
        atoms: Atoms kept of each group.
        full: Labels along the dimension at full width.
        ours: Labels in the sub-network; None if only the size is known. Those that came up in the sub-network alone
            (of constants) may stand for anything.
        size: Length of the dimension in the sub-network.
    """
    whole = codes[full.numpy()]
    owner, atom = decode(whole)
    wanted = whole[atom < atoms[owner]]
    if len(wanted) == len(whole) == size or (owner < 0).all():
        return set()
    found = wanted
    if ours is not None and size > 1:
        known = ours.numpy()
        found = np.where(known < len(codes), codes[np.minimum(known, len(codes) - 1)], _ANY)
    if size == len(wanted) == len(found):
        unlike = (found != wanted) & (found != _ANY)
        touched = np.concatenate([wanted[unlike], found[unlike]])
    else:
        touched = np.concatenate([wanted, found])
    return set(decode(touched[touched >= 0])[0].tolist())


def _is_resized(codes: Ints, labels: Labels, full: Sequence[int], ours: Sequence[int]) -> bool:
    """Whether a tensor of a sub-network has another size along a dimension that holds no group's channels."""
    return len(full) == len(ours) and any(
        size != now and (dim not in labels or (codes[labels[dim].numpy()] < 0).all())
        for dim, (size, now) in enumerate(zip(full, ours, strict=True))
    )


def _own_line(error: Exception) -> str:
    """Where in the model's own code it was raised: " in mixer.py:42"."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_own_code(f.filename)]
    return f" in {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _draw(graph: ChannelGraph) -> Widths:
    """Any whole number of atoms, unequal on purpose: equal widths would hide an integer that fits by accident.

    At least two: a dimension of one slot can't be told from one that is spread.
    """
    generator = torch.Generator().manual_seed(0)
    widths: dict[str, int] = {}
    for group in graph.groups:
        low = min(2, group.atoms) if group.frozen is None else group.atoms
        widths[group.name] = group.atom * int(torch.randint(low, group.atoms + 1, (), generator=generator))
    return Widths(widths)
