"""Runs a sub-network beside the full one, and says where and by whose fault it does not do the same.

The extracted sub-network is traced too. It must run the very operators of the full one, and every operator in it must
put out the very channels that are kept of those it put out at full width: so a cut or a view by numbers of the code's
own is seen even where all shapes fit, and so is a branch that the code takes at some widths only.
"""

import os
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.extract import extract_network
from autoslim.graph import ChannelGraph
from autoslim.ops import Call, Labels, Ledger
from autoslim.supernet import Supernet
from autoslim.trace._run import Key, Trace, double_batch, ignore, is_own_code, run_labelled
from autoslim.trace._solve import Ints, decode
from autoslim.widths import Widths

_LAST = 100  # operators that ran before one that fails, and may be why
_ANY = -2  # the code of a label that may stand for anything


class _Differs(Exception):
    """An operator of a sub-network puts out other channels than the graph says."""

    def __init__(self, message: str, module: str, suspects: Sequence[set[int]]) -> None:
        super().__init__(message)
        self.module, self.suspects = module, suspects


class _Strays(_Differs):
    """A sub-network runs other operators than the full network."""


@dataclass(frozen=True)
class Failure:
    """Why a sub-network does not run as the graph says.

    Attributes:
        reason: In words.
        suspects: Groups that may be to blame, by index, the likeliest first.
        module: Where it failed.
        done: Operators that ran as they should before.
        strays: Whether it is that other operators ran.
    """

    reason: str
    suspects: Sequence[set[int]] = ()
    module: str = ""
    done: int = 0
    strays: bool = False


@dataclass
class Follower:
    """Follows sub-networks of one trace.

    Attributes:
        codes: Group and atom of each label.
        trace: The forward passes at full width.
        inputs: The example inputs, on the trace's device.
        order: The operators of each mode that all sub-networks must run; None where that can't be told.
    """

    codes: Ints
    trace: Trace
    inputs: tuple[Any, ...]
    order: dict[bool, "list[Key] | None"] = field(default_factory=dict)
    _settled: bool = False

    def __post_init__(self) -> None:
        for training in self.trace.shapes:
            ran = [key for key in self.trace.labels if key[0] == training]
            self.order[training] = ran if self.trace.device == "meta" else None  # values may decide what runs

    def extracted(self, graph: ChannelGraph, widths: Widths, modes: Sequence[bool] = (False, True)) -> "Failure | None":
        """Traces the extracted sub-network beside the full one, in those of the modes that the full one runs in."""
        failure = self._follow(graph, widths, modes)
        if failure is not None and failure.strays and not self._settled:
            self._settle_order()
            failure = self._follow(graph, widths, modes)
        return failure

    def in_place(self, graph: ChannelGraph, widths: Widths) -> "Failure | None":
        """Runs the sub-network in place: where it fails and the extracted one does not, tensors are kept elsewhere."""
        net, wanted = Supernet(self.trace.model, graph).eval(), self.trace.shapes[False]
        try:
            with net.at(widths):
                shapes = run_labelled(net, self.inputs, Ledger(counting=False), ignore)
            if shapes != wanted and self.trace.device == "meta":
                return Failure(f"the output's shape changes in place from {wanted} to {shapes}")
        except Exception as error:  # noqa: BLE001 - whatever the model's code raises is the reason
            return Failure(f"the model's code can't follow in place: {type(error).__name__}: {error}")
        return None

    def _settle_order(self) -> None:
        """Looks again which operators run at full width, for a model may keep what its first pass has made.

        Where two more passes are unlike, something else than the widths decides, and nothing can be told from it.
        """
        self._settled = True
        for training, first in self.order.items():
            if first is not None:
                again = self._list_operators(training)
                self.order[training] = again if again in (first, self._list_operators(training)) else None

    def _list_operators(self, training: bool) -> list[Key]:
        ran: list[Key] = []
        run_labelled(
            self.trace.model.train(training),
            double_batch(self.inputs) if training else self.inputs,
            Ledger(counting=False),
            lambda key, call, outs, labels: ran.append(key),
        )
        return ran

    def _follow(self, graph: ChannelGraph, widths: Widths, modes: Sequence[bool]) -> "Failure | None":
        small = extract_network(self.trace.model, graph, widths)
        ledger = self._label(small, graph.selection(widths))
        atoms = np.append(graph.atoms(widths), np.iinfo(np.int64).max)  # the last: slots of no group
        frozen = np.array([group.frozen is not None for group in graph.groups] + [False])
        codes = np.where(frozen[decode(self.codes)[0]], -1, self.codes)

        def compare(key: Key, call: Call, outs: Sequence[torch.Tensor], found: Sequence[Labels]) -> None:
            for out, full, ours in zip(outs, self.trace.labels.get(key, ()), found, strict=False):
                for dim, vector in full.items():
                    size = out.shape[dim] if dim < out.dim() else 0
                    suspects = _differing(codes, atoms, vector, ours.get(dim), size)
                    if suspects:
                        why = f"it takes channels by numbers of its own in {call.locate()}"
                        raise _Differs(why, key[1], [suspects])

        return self._run(small, ledger, compare, [mode for mode in self.trace.shapes if mode in modes])

    def _label(self, small: nn.Module, kept: dict[str, dict[int, torch.Tensor]]) -> Ledger:
        """Gives a sub-network's tensors the labels of the slots that they keep."""
        ledger = Ledger(size=self.trace.ledger.size, policies=self.trace.ledger.policies, counting=False)
        tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        labels: dict[str, Labels] = {name: {} for name in tensors}
        for name, dim, start, size in self.trace.ledger.blocks:
            whole = torch.arange(start, start + size)
            labels[name][dim] = whole[kept[name][dim]] if dim in kept.get(name, {}) else whole
        for name, tensor in tensors.items():
            ledger.set_labels(tensor, labels[name])
        return ledger

    def _run(self, model: nn.Module, ledger: Ledger, compare: Any, modes: Sequence[bool]) -> "Failure | None":
        """Runs a network in these modes, and compares all operators."""
        last: deque[Any] = deque(maxlen=_LAST)
        done = dict.fromkeys(modes, 0)

        def watch(key: Key, call: Call, outs: Sequence[torch.Tensor], labels: Sequence[Labels]) -> None:
            last.appendleft((outs, call.args))
            if (order := self.order[key[0]]) is not None:
                expected = order[done[key[0]] : done[key[0]] + 1]
                if expected != [key]:
                    raise self._stray(ledger, key, expected, call)
            compare(key, call, outs, labels)
            done[key[0]] += 1

        for training in modes:
            try:
                given = double_batch(self.inputs) if training else self.inputs
                shapes = run_labelled(model.train(training), given, ledger, watch)
                if left := (self.order[training] or [])[done[training] :]:
                    raise self._stray(ledger, None, left[:1], None)
            except Exception as error:  # noqa: BLE001 - whatever the model's code raises is the reason
                return self._blame(error, ledger, last, sum(done.values()))
            if shapes != (wanted := self.trace.shapes[training]) and self.trace.device == "meta":
                return Failure(f"the output's shape changes from {wanted} to {shapes}", done=sum(done.values()))
        return None

    def _stray(self, ledger: Ledger, key: "Key | None", expected: Sequence[Key], call: "Call | None") -> _Strays:
        """Suspects are what the operator was given that ran instead of the `expected` one, and what that one made."""
        missed = [self._groups(self.trace.labels.get(each, ())) for each in expected]
        given = [] if call is None else [self._groups([ledger.labels(leaf) for leaf in tree_leaves(call.args)])]
        is_new = key is not None and key not in self.trace.labels
        where = expected[0][1] or "the network's own forward" if call is None else call.locate()
        module = expected[0][1] if call is None else call.module
        suspects = [*given, *missed] if is_new else [*missed, *given]
        return _Strays(f"it decides by widths which operators run in {where}", module, suspects)

    def _blame(self, error: Exception, ledger: Ledger, last: Iterable[Any], done: int) -> Failure:
        """Suspects are what the failing operator was given, activations first, and what ran just before it."""
        recent = [self._groups([ledger.labels(leaf) for leaf in tree_leaves(each)]) for each in last]
        if isinstance(error, _Differs):
            reason, strays = f"the model's code can't follow: {error}", isinstance(error, _Strays)
            return Failure(reason, [*error.suspects, *(recent if strays else ())], error.module, done, strays)
        lines = str(error).splitlines() or [""]
        reason = f"the model's code can't follow: {type(error).__name__}: {lines[0]}{_own_line(error)}"
        tensors = [leaf for leaf in getattr(error, "touched", ()) if isinstance(leaf, torch.Tensor)]
        data = [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]
        touched = [self._groups([ledger.labels(leaf) for leaf in each]) for each in (data, tensors)]
        return Failure(reason, [*touched, *recent], getattr(error, "raised_in", ""), done)

    def _groups(self, labels: Sequence[Labels]) -> set[int]:
        groups: set[int] = set()
        for vector in (vector for each in labels for vector in each.values()):
            known = vector.numpy()
            codes = self.codes[known[known < len(self.codes)]]
            groups |= set(decode(codes[codes >= 0])[0].tolist())
        return groups


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


def _own_line(error: Exception) -> str:
    """Where in the model's own code it was raised: " in mixer.py:42"."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_own_code(f.filename)]
    return f" in {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
