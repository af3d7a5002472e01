"""What a sub-network is worth: its BatchNorm statistics from train images, its loss and metric on search images.

Where several processes share a run, each gets every so many-th batch: rank r of n those at r, r + n, r + 2n, and so on.
Whatever is made of them is put together in the order of all batches, so that the numbers are those of one process.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice, zip_longest
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from autoslim.ranks import Ranks
from autoslim.replay import Shared, Tape
from autoslim.search import Referee, Sample, Score
from autoslim.supernet import Supernet
from autoslim.tasks import Task
from autoslim.widths import Widths

Batch = tuple[torch.Tensor, torch.Tensor]
_T = TypeVar("_T")
_STATISTICS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"
_SKIPPED = -1.0  # a variance that no norm gives
_LOOK = 500  # search images between two looks of a race, at least


def calibrate(net: Supernet, widths: Widths, images: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Buffers of a sub-network with running statistics of its own.

    The supernet's running statistics are those of its widest network. A sub-network's are the mean over batches of
    *train* images of the batch statistics it sees (AutoSlim, section 3.3). Only BatchNorm runs in train mode for it.

    Args:
        net: The supernet; neither its buffers nor its mode are changed.
        widths: The sub-network.
        images: Batches [N, C, H, W], always the same ones so that sub-networks can be compared.
    """
    return _calibrate(net, [widths], images, _NoReuse())[0]


def evaluate(model: nn.Module, batches: Iterable[Batch], task: Task) -> Sample:
    """Loss and metric of every image, in eval mode, of batches of (images [N, C, H, W], targets [N, ...])."""
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            own = [_judge(task, model(images), labels) for images, labels in batches]
    finally:
        model.train(training)
    return _join(task, _in_order(Ranks.here().gather(own)))


class SupernetScorer:
    """Scores sub-networks of a trained supernet, all on the same images.

    Batches are the outer loop and sub-networks the inner one: one batch's activations are held, and no more.

    Args:
        net: The trained supernet.
        task: Judges its outputs.
        calibration: Batches of train images for the BatchNorm statistics, at least 512 images where there are so many.
        search: Batches of search images and labels, which decide; gone through once a score.

    Both are this process's batches, where several share a run.
    """

    def __init__(
        self, net: Supernet, task: Task, *, calibration: Sequence[torch.Tensor], search: Iterable[Batch]
    ) -> None:
        self._net, self._task = net, task
        self._calibration, self._search = calibration, search
        images = next(chain(calibration, (images for images, _ in search)), None)  # of several processes some have few
        self._reuse = _NoReuse() if images is None else _Reuse(net, images[:2])

    def score(self, widths: Widths) -> Score:
        return self.score_many([widths])[0]

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        return [self.judge(each, self._search) for each in widths]

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        """The score of every image; see `Scorer.samples`. What the trials share with `base` is computed once."""
        ranks = Ranks.here()
        able = base is not None and all(ranks.gather(isinstance(self._reuse, _Reuse)))
        reuse = self._reuse if able else _NoReuse()
        reuse.prepare(trials, base)
        buffers = _calibrate(self._net, trials, self._calibration, reuse, base)
        parts: list[list[Sample]] = [[] for _ in trials]
        alive, unseen, own = list(range(len(trials))), 0, iter(self._search)
        ahead = None if referee is None else 1  # batches until the processes meet: without a referee, all
        training = self._net.training
        try:
            self._net.eval()
            while alive:
                met = ranks.gather(list(self._judge_next(islice(own, ahead), trials, buffers, alive, reuse, base)))
                for samples in _in_order(met):
                    for at in alive:
                        parts[at].append(samples[at])
                    unseen += len(samples[alive[0]]) if alive else 0
                    if referee is not None and unseen >= _LOOK:
                        alive, unseen = sorted(referee(alive, [_join(self._task, parts[at]) for at in alive])), 0
                if ahead is None or not all(met):
                    break
        finally:
            self._net.train(training)
        return [_join(self._task, part) for part in parts]

    def _judge_next(
        self,
        batches: Iterable[Batch],
        trials: Sequence[Widths],
        buffers: Sequence[dict[str, torch.Tensor]],
        alive: Sequence[int],
        reuse: "_NoReuse",
        base: Widths | None,
    ) -> Iterator[dict[int, Sample]]:
        """Of each batch the samples of those alive, by their place among the trials."""
        for images, labels in batches:
            found: dict[int, Sample] = {}
            shared = reuse.shared([trials[at] for at in alive], base, calibrating=False)
            for index in shared.order:
                at = alive[index]
                with torch.no_grad(), self._net.at(trials[at], buffers=buffers[at]):
                    found[at] = _judge(self._task, shared.run(index, self._net, images), labels)
            yield found

    def judge(self, widths: Widths, batches: Iterable[Batch]) -> Score:
        """The sub-network's score on other images, with the same BatchNorm statistics."""
        with self._net.at(widths, buffers=self.buffers(widths)):
            return evaluate(self._net, batches, self._task).score

    def buffers(self, widths: Widths) -> dict[str, torch.Tensor]:
        """The calibrated buffers, for a network that inherits the supernet's weights."""
        return calibrate(self._net, widths, self._calibration)


class _NoReuse:
    """Every pass is computed whole."""

    def prepare(self, trials: Sequence[Widths], base: Widths | None) -> None:
        """Learns what `shared` will need; called by all processes at once."""

    def shared(self, trials: Sequence[Widths], base: Widths | None, *, calibrating: bool) -> Shared:
        return Shared(None, [0] * len(trials))


class _Reuse(_NoReuse):
    """Knows, per group and mode, the first operator that differs once the group is narrowed."""

    def __init__(self, net: Supernet, images: torch.Tensor) -> None:
        self._net, self._images = net, images
        self._tapes: dict[bool, Tape] = {}
        self._cuts: dict[tuple[bool, str], int] = {}

    def prepare(self, trials: Sequence[Widths], base: Widths | None) -> None:
        """Records the passes that are not known yet; several processes share the groups."""
        assert base is not None
        ranks, changed = Ranks.here(), {group for trial in trials for group in _changed(trial, base)}
        new = [(mode, g) for mode in (True, False) for g in sorted(changed) if (mode, g) not in self._cuts]
        if len(trials) > 1 and new:
            for told in ranks.gather({key: self._cut(*key) for key in new[ranks.rank :: ranks.size]}):
                self._cuts |= told

    def shared(self, trials: Sequence[Widths], base: Widths | None, *, calibrating: bool) -> Shared:
        assert base is not None
        if len(trials) == 1:
            return super().shared(trials, base, calibrating=calibrating)
        cuts = [min((self._cuts[calibrating, g] for g in _changed(trial, base)), default=0) for trial in trials]
        return Shared(self._tape(calibrating), cuts)

    def _tape(self, calibrating: bool) -> Tape:
        if calibrating not in self._tapes:
            widths = self._net.graph.max_widths()
            buffers = self._net.buffers_at(widths)
            with self._pass(widths, buffers, calibrating) as run:
                own = [buffers[f"{norm}.{name}"] for norm in _norms(self._net) for name in (_COUNT, *_STATISTICS)]
                self._tapes[calibrating] = Tape(run, own)
        return self._tapes[calibrating]

    def _cut(self, calibrating: bool, group: str) -> int:
        """The first operator that differs, in a pass of two images."""
        narrow = self._net.graph.max_widths().replace({group: self._net.graph.group(group).candidates[0]})
        tape = self._tape(calibrating)
        with self._pass(narrow, self._net.buffers_at(narrow), calibrating) as run:
            return tape.first_difference(run)

    @contextmanager
    def _pass(
        self, widths: Widths, buffers: Mapping[str, torch.Tensor], calibrating: bool
    ) -> Generator[Callable[[], object], None, None]:
        """A sub-network ready to run: a tape holds what its pass does, and nothing of what leads there."""
        with _mode(self._net, calibrating=calibrating), self._net.at(widths, buffers=buffers):
            yield lambda: self._net(self._images)


def _calibrate(
    net: Supernet,
    trials: Sequence[Widths],
    batches: Iterable[torch.Tensor],
    reuse: _NoReuse,
    base: Widths | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Buffers of each sub-network, with the mean of its batches' statistics, which is taken in float64."""
    norms = _norms(net)
    buffers = [net.buffers_at(widths) for widths in trials]
    if not norms:
        return buffers
    names = [f"{norm}.{statistic}" for norm in norms for statistic in _STATISTICS]
    seen: list[list[torch.Tensor]] = [[] for _ in trials]  # each batch's statistics, end to end
    with _mode(net, calibrating=True), torch.no_grad():
        for images in batches:
            shared = reuse.shared(trials, base, calibrating=True)
            for at in shared.order:
                first = buffers[shared.order[0]] if at != shared.order[0] else {}
                _reset(buffers[at], norms, first)
                with net.at(trials[at], buffers=buffers[at]):
                    shared.run(at, net, images)
                _take_skipped(buffers[at], norms, first)
                seen[at].append(torch.cat([buffers[at][name] for name in names]))
    told = Ranks.here().gather([[_numbers(each) for each in one] for one in seen])
    for own, *parts in zip(buffers, *told, strict=True):
        statistics = _in_order(parts)
        if statistics:
            mean = torch.from_numpy(np.stack(statistics).astype(np.float64).mean(0))
            for name, part in zip(names, mean.split([own[name].numel() for name in names]), strict=True):
                own[name].copy_(part)
        for norm in norms:
            own[f"{norm}.{_COUNT}"].fill_(len(statistics))
    return buffers


def _changed(trial: Widths, base: Widths) -> list[str]:
    return [group for group, width in trial.items() if width != base[group]]


def _in_order(parts: Sequence[Sequence[_T]]) -> list[_T]:
    """What each process made of its batches, in the order of all batches.

    >>> _in_order([["a", "c", "e"], ["b", "d"]])
    ['a', 'b', 'c', 'd', 'e']
    """
    nothing = object()
    return [each for each in chain.from_iterable(zip_longest(*parts, fillvalue=nothing)) if each is not nothing]  # pyright: ignore[reportReturnType]


def _reset(buffers: Mapping[str, torch.Tensor], norms: Sequence[str], first: Mapping[str, torch.Tensor]) -> None:
    """Ready for one batch's statistics. A norm may be skipped where the first sub-network's is as wide."""
    for norm in norms:
        for name in (_COUNT, *_STATISTICS):
            buffers[f"{norm}.{name}"].zero_()
        if _as_wide(norm, buffers, first):
            buffers[f"{norm}.running_var"].fill_(_SKIPPED)


def _take_skipped(buffers: Mapping[str, torch.Tensor], norms: Sequence[str], first: Mapping[str, torch.Tensor]) -> None:
    """The first sub-network's statistics, where the norm that makes them was skipped: it is shared."""
    for norm in (norm for norm in norms if _as_wide(norm, buffers, first)):
        skipped = buffers[f"{norm}.running_var"] < 0
        for name in (f"{norm}.{statistic}" for statistic in _STATISTICS):
            buffers[name].copy_(torch.where(skipped, first[name], buffers[name]))


def _as_wide(norm: str, buffers: Mapping[str, torch.Tensor], first: Mapping[str, torch.Tensor]) -> bool:
    name = f"{norm}.running_var"
    return name in first and first[name].shape == buffers[name].shape


def _norms(net: Supernet) -> list[str]:
    return [name for name, module in net.model.named_modules() if _has_statistics(module)]


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.track_running_stats


@contextmanager
def _mode(net: Supernet, *, calibrating: bool) -> Generator[None, None, None]:
    """Eval mode; to calibrate, norms with statistics in train mode, to take those of one batch as they are."""
    modes = [(module, module.training) for module in net.modules()]
    norms = [module for module in net.modules() if isinstance(module, _NormBase) and _has_statistics(module)]
    momenta = [module.momentum for module in norms]
    try:
        net.eval()
        for module in norms if calibrating else ():
            module.train()
            module.momentum = None if isinstance(module, _BatchNorm) else 1.0  # InstanceNorm takes None for 0
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum


def _judge(task: Task, output: object, labels: torch.Tensor) -> Sample:
    """One batch; without what makes a metric of facts, so that processes can send it to each other."""
    loss, metric = (_numbers(each.detach()) for each in task.judge(output, labels))
    loss = loss.astype(np.float64)
    if task.metric.whole is not None:
        return Sample(loss, np.full(len(loss), np.nan), metric)
    return Sample(loss, metric.astype(np.float64) if task.metric.higher else -metric.astype(np.float64))


def _numbers(tensor: torch.Tensor) -> NDArray[Any]:
    """On the CPU; bfloat16, which numpy has not, as float32."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _join(task: Task, parts: Sequence[Sample]) -> Sample:
    whole = None if task.metric.whole is None else partial(_whole, task)
    return replace(Sample.join(parts), whole=whole)


def _whole(task: Task, facts: NDArray[Any]) -> float:
    assert task.metric.whole is not None
    return task.metric.turn(task.metric.whole(facts))
