"""Forward passes that share their beginning: what sub-networks have in common is computed once.

Sub-networks that differ in one group run the same operators on the same numbers, up to the first operator that sees the
group. A `Tape` knows the operators of a model's pass, in their order, whatever Python code called them; a `Shared` runs
several sub-networks over one batch: the one that differs last runs whole and keeps what the others will read, and each
of the others begins at its own first difference. Its code runs from the start all the same: operators before that point
are not computed, they answer with what was kept, or with empty memory of the right shape if nobody reads it any more.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from autoslim._operators import is_view, leaves_of, returned, shaped, written_by
from autoslim._tensors import output_tensors, storage_of

_Ref = tuple[int, int]  # an operator's place in the pass, and which of its outputs
_READERS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__)  # of memory, without an operator


class _Diverged(Exception):
    """The pass took another way than the tape."""


@dataclass(frozen=True)
class _Call:
    """One operator of a pass: what it reads, by origin, the storages it writes, and what it uses of the own ones."""

    func: Any
    reads: tuple[Any, ...]
    writes: tuple[int, ...]
    uses: tuple[int, ...]
    outputs: tuple[_Ref | None, ...]


@dataclass(frozen=True)
class _Start:
    """A place to begin at: what later operators read of earlier ones, and which of it they write to."""

    cut: int
    needed: frozenset[_Ref]
    written: frozenset[_Ref]


class Tape:
    """The operators of a model's forward pass, recorded on a small batch.

    Args:
        run: Runs the pass; of a network at full width.
        own: What every sub-network has of its own, whatever its widths: statistics.
    """

    def __init__(self, run: Callable[[], Any], own: Iterable[torch.Tensor] = ()) -> None:
        recorder = _Recorder({storage_of(tensor) for tensor in own})
        with torch.no_grad(), recorder, _Reader(recorder) as reader:
            output = run()
        self.calls = recorder.calls
        self._read = min(reader.made, default=len(self.calls))
        self._results, self._made, self._storages = recorder.results, recorder.made, recorder.storages
        self._output = [self._made.get(_key(leaf)) for leaf in output_tensors(output)]
        self._starts: dict[int, _Start] = {}

    def first_difference(self, run: Callable[[], Any]) -> int:
        """The first operator of another pass that does not read what the recorded one read.

        Args:
            run: The other pass, on the same batch; it is broken off there.
        """
        follower = _Comparer(self.calls, self._results, self._made)
        try:
            with torch.no_grad(), follower:
                run()
        except _Diverged:
            pass
        return follower.at

    def start(self, cut: int) -> _Start:
        """What must be known to begin at operator `cut`, or earlier where what comes before it can't be told apart.

        What Python reads from memory itself is computed in every pass, and all after it.
        """
        cut = min(cut, self._read)
        if cut not in self._starts:
            later = self.calls[cut:]
            stores = {storage for call in later for storage in call.writes}
            own = {storage for call in later for storage in call.uses}  # a norm that is called again
            if (first := next((at for at in range(cut) if own.intersection(self.calls[at].uses)), cut)) < cut:
                return self._starts.setdefault(cut, self.start(first))
            read = {ref for call in later for ref in call.reads if isinstance(ref, tuple) and len(ref) == 2}
            needed = {ref for ref in (*read, *self._output) if ref is not None and ref[0] < cut}
            written = [ref for ref in needed if self._storages[ref] in stores]
            shared = len({self._storages[ref] for ref in written}) < sum(
                self._storages[ref] in {self._storages[one] for one in written} for ref in needed
            )
            self._starts[cut] = (
                _Start(0, frozenset(), frozenset()) if shared else _Start(cut, frozenset(needed), frozenset(written))
            )
        return self._starts[cut]


class Shared:
    """Sub-networks over one batch, each from its own first difference on.

    Args:
        tape: Of the model; None computes every pass whole.
        cuts: Per sub-network the operator at which it begins to differ from all the others' common base.

    Attributes:
        order: The order in which `run` is to be called: the one that differs last leads.
        computed: Operators that were computed, of `total`.
    """

    def __init__(self, tape: Tape | None, cuts: Sequence[int]) -> None:
        self._tape = tape
        self.order = sorted(range(len(cuts)), key=lambda at: (-cuts[at], at))
        self.computed = self.total = 0
        if tape is not None:
            self._starts = [tape.start(cut) for cut in cuts]
            self._leader = _Leader(tape, {at: self._starts[at] for at in self.order[1:]})

    def run(self, at: int, model: Callable[[torch.Tensor], Any], images: torch.Tensor) -> Any:
        """The output of sub-network `at`, which `model` runs; call in the given order."""
        tape = self._tape
        if tape is None or (at != self.order[0] and self._leader.failed):
            return model(images)
        self.total += len(tape.calls)
        if at == self.order[0]:
            self.computed += len(tape.calls)
            with self._leader:
                output = model(images)
            if self._leader.failed:
                _warn(self._leader.failed)
            return output
        follower = _Follower(tape, self._starts[at], self._leader, at)
        try:
            with follower:
                output = model(images)
            follower.finish()
        except _Diverged as error:
            self._leader.failed = str(error)
            _warn(self._leader.failed)
            self.computed += len(tape.calls)
            return model(images)
        self.computed += len(tape.calls) - self._starts[at].cut
        return output


def _warn(why: str) -> None:
    warnings.warn(
        f"A forward pass took another way than the recorded one ({why}); sub-networks are computed whole on this "
        "batch. Turn reuse off if this comes often.",
        stacklevel=3,
    )


class _Watcher(TorchDispatchMode, ABC):
    """Takes every operator of a pass, but `detach`: a factory like arange runs it only where somebody else holds its
    result, so that whoever looks on would change the pass. Nothing is lost: it gives the same memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return func(*args, **(kwargs or {}))
        return self._take(func, args, kwargs)

    @abstractmethod
    def _take(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operator gives."""


class _Recorder(_Watcher):
    """Notes every operator, and keeps all results: a small batch's."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self._own = own
        self.calls: list[_Call] = []
        self.results: list[Any] = []
        self.made: dict[Any, _Ref] = {}
        self.storages: dict[_Ref, int] = {}
        self._keep: list[torch.Tensor] = []

    def _take(self, func: Any, args: Any, kwargs: Any) -> Any:
        reads = _reads(self.made, args, kwargs)
        given = _tensors((args, kwargs))
        self._keep += given  # or their memory is used again, and two tensors have one key
        writes = tuple(storage_of(tensor) for tensor in written_by(func, args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        at, refs = len(self.calls), []
        for index, leaf in enumerate(tree_leaves(out)):
            if isinstance(leaf, torch.Tensor) and any(leaf is tensor for tensor in given):  # written to: nothing new
                refs.append(self.made.get(_key(leaf)))
            elif isinstance(leaf, torch.Tensor):
                ref = self.made.setdefault(_key(leaf), (at, index))
                self.storages.setdefault(ref, storage_of(leaf))
                refs.append(ref)
            else:
                refs.append(None)
        uses = tuple(self._own.intersection(map(storage_of, given)))
        self.calls.append(_Call(func, reads, writes, uses, tuple(refs)))
        self.results.append(out)
        return out


class _Reader(TorchFunctionMode):
    """Notes which operators made what Python reads from memory itself."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self.made: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READERS and (ref := self._recorder.made.get(_key(args[0]))) is not None:
            self.made.append(ref[0])
        return func(*args, **(kwargs or {}))


class _Comparer(_Watcher):
    """Answers as recorded, for as long as the operators read the same."""

    def __init__(self, calls: Sequence[_Call], results: Sequence[Any], made: dict[Any, _Ref]) -> None:
        super().__init__()
        self._calls, self._results, self._made = calls, results, made
        self.at = 0

    def _take(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.at == len(self._calls):
            raise _Diverged
        call = self._calls[self.at]
        if func is not call.func or _reads(self._made, args, kwargs) != call.reads:
            raise _Diverged
        self.at += 1
        return returned(func, args, kwargs or {}, tree_map_only(torch.Tensor, _fresh, self._results[self.at - 1]))


class _Leader(_Watcher):
    """Computes everything, and keeps what the followers will read."""

    def __init__(self, tape: Tape, starts: dict[int, _Start]) -> None:
        super().__init__()
        self._tape, self._at = tape, 0
        self._until = max((start.cut for start in starts.values()), default=0)
        self._wanted = {ref for start in starts.values() for ref in start.needed}
        self._copies: dict[int, list[tuple[int, _Start]]] = {}
        for at, start in starts.items():
            self._copies.setdefault(start.cut, []).append((at, start))
        self.failed = ""  # why, if it took another way than the tape
        self.kept: dict[_Ref, torch.Tensor] = {}
        self.copies: dict[tuple[int, _Ref], torch.Tensor] = {}
        self.shapes: list[list[Any]] = []
        self.forms: list[list[Any]] = []  # of the outputs

    def _take(self, func: Any, args: Any, kwargs: Any) -> Any:
        at, self._at = self._at, self._at + 1
        if at > self._until or self.failed:
            return func(*args, **(kwargs or {}))
        if at >= len(self._tape.calls) or func is not self._tape.calls[at].func:
            self.failed = f"operator {at} is {func}"
            return func(*args, **(kwargs or {}))
        for follower, start in self._copies.get(at, ()):
            for ref in start.written:  # whoever comes first to write to it would change it for the others
                self.copies[follower, ref] = self.kept[ref].clone()
        self.shapes.append(_shapes(args, kwargs))
        out = func(*args, **(kwargs or {}))
        leaves = leaves_of(out)
        for leaf, ref in zip(leaves, self._tape.calls[at].outputs, strict=True):
            if ref in self._wanted and ref[0] == at:
                self.kept[ref] = leaf
        self.forms.append([_form(leaf) for leaf in leaves])
        return out


class _Follower(_Watcher):
    """Answers what was kept, up to the cut, and computes from there on."""

    def __init__(self, tape: Tape, start: _Start, leader: _Leader, index: int) -> None:
        super().__init__()
        self._calls, self._start, self._leader, self._index = tape.calls, start, leader, index
        self._at = 0

    def _take(self, func: Any, args: Any, kwargs: Any) -> Any:
        at, self._at = self._at, self._at + 1
        if at >= len(self._calls) or func is not self._calls[at].func:
            raise _Diverged(f"operator {at} is {func}")
        if at >= self._start.cut:
            return func(*args, **(kwargs or {}))
        if _shapes(args, kwargs) != self._leader.shapes[at]:
            raise _Diverged(f"operator {at}, {func}, reads other shapes")
        if is_view(func) and not any(ref in self._start.needed for ref in self._calls[at].outputs):
            return func(*args, **(kwargs or {}))
        made = [
            self._answer(ref, form) for ref, form in zip(self._calls[at].outputs, self._leader.forms[at], strict=True)
        ]
        return returned(func, args, kwargs or {}, shaped(func, made))

    def _answer(self, ref: _Ref | None, form: Any) -> Any:
        if not isinstance(form, _Form):
            return form
        if ref in self._start.written:
            return _fresh(self._leader.copies[self._index, ref])
        if ref in self._start.needed:
            return _fresh(self._leader.kept[ref])
        return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)

    def finish(self) -> None:
        if self._at != len(self._calls):
            raise _Diverged(f"{self._at} operators, expected {len(self._calls)}")


@dataclass(frozen=True)
class _Form:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _form(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return _Form(tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device)
    return leaf


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _shapes(args: Any, kwargs: Any) -> list[Any]:
    """What an operator reads, shapes for tensors. Every operator of every pass comes by here: no general tree walk."""
    return [_shape(leaf) for leaf in (*args, *kwargs.items())] if kwargs else [_shape(leaf) for leaf in args]


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.shape
    return [_shape(one) for one in leaf] if isinstance(leaf, (list, tuple)) else leaf


def _reads(made: dict[Any, _Ref], args: Any, kwargs: Any) -> tuple[Any, ...]:
    """Per argument the output that it is, or the shape of what came from outside, or the plain value."""
    return tuple(
        made.get(_key(leaf), ("given", leaf.shape, leaf.dtype))
        if isinstance(leaf, torch.Tensor)
        else ("value", leaf, 0)
        for leaf in tree_leaves((args, kwargs))
    )


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory in a tensor of its own: autograd marks a view when it first sees it, and refuses one it knows."""
    return tensor.detach()


def _key(tensor: torch.Tensor) -> Any:
    return storage_of(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
