"""The training loop: SGD over the batches of every epoch, whatever a step is; stopped anywhere, it goes on the same."""

import math
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from autoslim.checkpoint import Checkpoints, State
from autoslim.errors import TrainingError, describe_error
from autoslim.progress import say_many
from autoslim.ranks import Ranks
from autoslim.train._batchnorm import SharedBatchNorm
from autoslim.train._config import TrainConfig
from autoslim.train._device import suit
from autoslim.train._schedule import learning_rate, parameter_groups
from autoslim.train._signals import hold_signals

Batch = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[Batch, int, float], torch.Tensor]  # batch, the step's number, the batch's share in it -> losses [P]

OnStep = Callable[[float, int], None]

_PATIENCE = 10  # steps in a row that are not finite


@dataclass(frozen=True)
class Trained:
    """What a training went through.

    Attributes:
        losses: The mean loss of each epoch; a skipped step counts 0.
        skipped: Steps that were not taken, their loss or gradient not being finite.
    """

    losses: list[float]
    skipped: int


class Loader(Protocol):
    """Batches of an epoch; the same number gives the same batches, and `start` leaves out those before it."""

    def __len__(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterable[Batch]: ...


class Tracker(Protocol):
    """Takes the figures of one training."""

    def restart(self, step: int) -> None:
        """The training begins, or goes on, at `step`: what an earlier session gave from there on will come again."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None: ...


class Runtime(Protocol):
    """The part of Lightning Fabric that a step needs."""

    @property
    def device(self) -> torch.device: ...

    def autocast(self) -> Any: ...

    def backward(self, tensor: torch.Tensor) -> None: ...


def train(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig,
    epochs: int,
    step: Step,
    *,
    runtime: Runtime,
    on_step: OnStep,
    seed: int,
    ema: float = 0.0,
    checkpoints: Checkpoints | None = None,
    tracker: Tracker | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Trained:
    """Takes all steps, or those that are left of a training that was stopped.

    Whatever is random in a step follows from the seed and its number, so that nothing but the state has to be kept. A
    step whose loss or gradient is not finite changes nothing. With checkpoints, a SIGINT or SIGTERM to any of the
    processes ends them all after the same step; it is kept before the signal goes on to whoever handled it.

    Args:
        model: Its parameters are trained, in place.
        loader: Its batches are this process's part of each batch.
        config: Optimizer, schedule, accumulation and clipping.
        epochs: Of the whole training.
        step: Leaves a batch's gradients in `.grad`; returns the losses of its passes, which are summed, once for all.
        runtime: Lightning Fabric.
        on_step: Called after each step with its loss and the number of steps taken.
        seed: Of dropout and the like.
        ema: If above 0, the result is the average of all steps' tensors, fading by this factor a step; see `_fresh`.
        checkpoints: Where the state is kept on the way; removed by the caller.
        tracker: Takes loss, learning rate and images per second of each step.
        scaler: For 16-mixed precision: the one that `runtime.backward` scales losses by.

    Raises:
        TrainingError: Ten steps in a row, or all there are, that are not finite.
    """
    course = _Course(model, config, len(loader), epochs, ema, scaler, tracker)
    course.begin(checkpoints)
    with hold_signals(checkpoints is not None) as asked, suit(runtime.device), _generators_kept():
        try:
            for batch in _batches(loader, course):
                _seed(seed, course.done)
                course.asked = asked
                loss = course.take(_cut(batch, config.accumulate, runtime.device), step)
                on_step(loss, course.done)
                course.check(checkpoints)
                if checkpoints is not None and (course.done % len(loader) == 0 or checkpoints.due):
                    checkpoints.save(course.done, course.state())
        except KeyboardInterrupt:  # at once: of a second Ctrl-C
            course.keep(checkpoints)
            raise
        except torch.OutOfMemoryError as error:
            raise TrainingError(course.describe_full(error, checkpoints)) from error
        asked[:] = course.stop(asked, checkpoints) or asked
    course.finish_()
    return Trained(course.means, course.skipped)


def _cut(batch: Batch, parts: int, device: torch.device) -> list[Batch]:
    """As many parts, on the device, of equally many images but for one; fewer where there are fewer images."""
    moved = [tensor.to(device, non_blocking=device.type == "cuda") for tensor in batch]
    pieces = (tensor.tensor_split(min(parts, len(tensor))) for tensor in moved)
    return list(zip(*pieces, strict=True))


def _batches(loader: Loader, course: "_Course") -> Iterator[Batch]:
    """Those that are left of all epochs, or up to where somebody asks for an end."""
    while course.done < course.steps:
        for batch in loader.epoch(*divmod(course.done, len(loader))):
            yield batch
            if course.asked:
                return


class _Course:
    """A training on its way: the model, its optimizer and average, and how far it is."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        per_epoch: int,
        epochs: int,
        ema: float,
        scaler: torch.amp.GradScaler | None,
        tracker: Tracker | None,
    ) -> None:
        self.config, self.steps, self._per_epoch, self._tracker = config, per_epoch * epochs, per_epoch, tracker
        self._decay, self._scaler, self._ranks = ema, scaler, Ranks.here()
        self.done, self.skipped, self.skipped_in_row, self.means = 0, 0, 0, list[float]()
        self.whole = True  # whether the state is that after `done` steps
        self.asked: list[int] = []  # the signals that ask for an end after this step
        self._parameters = dict(model.train().named_parameters())
        self._places = {name: _place(model, name) for name, _ in model.named_buffers()}
        for store, own in self._places.values():
            store[own] = _dense(store[own])
        self._before = [buffer.clone() for buffer in self._buffers.values()]  # the step, for one that is not taken
        self._average = {name: tensor.detach().clone() for name, tensor in self._floats().items()} if ema else {}
        self._optimizer = torch.optim.SGD(
            parameter_groups(model, config.weight_decay),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )

    def begin(self, checkpoints: Checkpoints | None) -> None:
        """Goes on from the last state, if there is one."""
        if checkpoints is not None and (state := checkpoints.load()) is not None:
            self.restore_(state)
        if self._tracker is not None:
            self._tracker.restart(self.done)

    @property
    def _buffers(self) -> dict[str, torch.Tensor]:
        """Those that stand there now: a network's code may put others in their places."""
        return {name: store[own] for name, (store, own) in self._places.items()}

    def take(self, parts: Sequence[Batch], step: Step) -> float:
        """One step on a batch that comes in parts; returns its loss, 0 if it was skipped."""
        self.whole, started = False, time.monotonic()
        _copy_all_(self._before, list(self._buffers.values()))
        losses = self._gradients(parts, step)
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters.values() if p.grad is not None])
        loss = self._agree(losses)
        if math.isfinite(loss) and bool(norm.isfinite()):
            if self.config.clip:
                torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), self.config.clip, norm)
            self._optimizer.step() if self._scaler is None else self._scaler.step(self._optimizer)
            if self._average:
                floats = self._floats()
                news = [floats[name].detach() for name in self._average]
                _lerp_all_(list(self._average.values()), news, _fresh(self._decay, self.done))
            self.skipped_in_row = 0
        else:
            _copy_all_(list(self._buffers.values()), self._before)
            scale = self._scaler.get_scale() if self._scaler is not None else 1.0
            overflow = math.isfinite(loss) and scale > 1  # of float16: the scaler tries again with half the scale
            self.skipped, self.skipped_in_row = self.skipped + 1, 0 if overflow else self.skipped_in_row + 1
            loss = 0.0
        if self._scaler is not None:
            self._scaler.update()
        epoch = self.done // self._per_epoch
        self.means[epoch:] = [sum(self.means[epoch:]) + loss / self._per_epoch]
        self.done += 1
        self.whole = True
        if self._tracker is not None:
            rate = learning_rate(self.config, self.done - 1, self.steps)
            speed = sum(len(labels) for _, labels in parts) * self._ranks.size / max(time.monotonic() - started, 1e-9)
            self._tracker.write(self.done - 1, {"loss": loss, "learning_rate": rate, "images_per_second": speed})
        return loss

    def _gradients(self, parts: Sequence[Batch], step: Step) -> list[torch.Tensor]:
        """Leaves the mean gradient over all parts and processes; returns the losses of each part's passes."""
        rate = learning_rate(self.config, self.done, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        images = sum(len(labels) for _, labels in parts)
        images = sum(self._ranks.gather(images)) / self._ranks.size  # processes whose parts differ weigh accordingly
        with SharedBatchNorm() if self.config.sync_batchnorm else nullcontext():
            losses = [step(part, self.done, len(part[1]) / images) for part in parts]
        self._ranks.average_(p.grad for p in self._parameters.values() if p.grad is not None)
        return losses

    def _agree(self, losses: Sequence[torch.Tensor]) -> float:
        """The mean loss of all processes, and whether any of them is asked to end."""
        told = self._ranks.gather((sum(sum(each.tolist()) for each in losses), self.asked[:1]))
        self.asked = next((asked for _, asked in told if asked), [])
        return sum(loss for loss, _ in told) / self._ranks.size

    def stop(self, asked: list[int], checkpoints: Checkpoints | None) -> list[int]:
        """The signal that asks any process to end, as a list; it may have come while the last state was saved.

        All of them end then, none while the first may still be writing.
        """
        self.asked = next((each for each in self._ranks.gather(asked[:1]) if each), [])
        if self.asked:
            self.keep(checkpoints)
            self._ranks.wait()
        return self.asked

    def keep(self, checkpoints: Checkpoints | None) -> None:
        """Before an end: of this process alone, maybe, so that none is waited for."""
        if checkpoints is not None and self.whole:
            checkpoints.save(self.done, self.state())

    def state(self) -> State:
        """All that the next step depends on."""
        momenta = {
            name: self._optimizer.state[p]["momentum_buffer"]
            for name, p in self._parameters.items()
            if self._optimizer.state.get(p, {}).get("momentum_buffer") is not None
        }
        kinds = {"model": {**self._parameters, **self._buffers}, "momentum": momenta, "average": self._average}
        tensors = {f"{kind}/{name}": each.detach() for kind, named in kinds.items() for name, each in named.items()}
        told = ("done", "skipped", "skipped_in_row", "means")
        scaler = {} if self._scaler is None else {"scaler": self._scaler.state_dict()}
        return State(tensors, {**{name: getattr(self, name) for name in told}, **scaler})

    def restore_(self, state: State) -> None:
        """The inverse of `state`."""
        kinds: dict[str, dict[str, torch.Tensor]] = {"model": {}, "momentum": {}, "average": {}}
        for key, tensor in state.tensors.items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = tensor
        self._put_({**self._parameters, **self._buffers}, kinds["model"])
        self._put_(self._average, kinds["average"])
        for name, momentum in kinds["momentum"].items():
            p = self._parameters[name]
            self._optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum)
        facts = dict(state.facts)
        if self._scaler is not None:
            self._scaler.load_state_dict(facts.pop("scaler"))
        vars(self).update(facts)

    def finish_(self) -> None:
        """Puts the average into the model, and that of all processes into its running statistics."""
        self._put_(self._floats(), self._average)
        self._ranks.average_(buffer for buffer in self._buffers.values() if buffer.is_floating_point())

    def check(self, checkpoints: Checkpoints | None) -> None:
        """Raises TrainingError after too many steps that are not finite."""
        if self.skipped_in_row < min(_PATIENCE, self.steps):
            return
        rate = learning_rate(self.config, self.done - 1, self.steps)
        kept = f" The last checkpoint: {checkpoints.latest}." if checkpoints is not None else ""
        raise TrainingError(
            f"The loss or its gradient was not finite in {self.skipped_in_row} steps in a row, the last of them step "
            f"{self.done} of {self.steps}, learning rate {rate:.4g}. Expected finite numbers.{kept} Try a lower "
            f"learning rate (--lr {self.config.lr / 4:g}), a longer warm-up (--warmup 0.2) or clipped gradients "
            "(--clip 1)."
        )

    def describe_full(self, error: Exception, checkpoints: Checkpoints | None) -> str:
        config = self.config
        kept = f" The last checkpoint: {checkpoints.latest}." if checkpoints is not None else ""
        return (
            f"Step {self.done + 1} of {self.steps} does not fit into the GPU: {describe_error(error)}. Expected room "
            f"for {config.batch_size} images in {say_many(config.accumulate, 'part')}.{kept} Close what else uses the "
            f"GPU, or begin a run anew with --accumulate {2 * config.accumulate} or --batch-size "
            f"{max(config.batch_size // 2, 1)}."
        )

    def _floats(self) -> dict[str, torch.Tensor]:
        tensors = {**self._parameters, **self._buffers}
        return {name: x for name, x in tensors.items() if x.is_floating_point() or x.is_complex()}

    @staticmethod
    def _put_(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                tensors[name].copy_(value)


@torch.no_grad()
def _copy_all_(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copies many small tensors, those of a kind in one call."""
    for many in _kinds(targets, sources):
        torch._foreach_copy_(*many)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def _lerp_all_(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], weight: float) -> None:
    """As `lerp_` of each, to the bit, those of a kind in one call."""
    for many in _kinds(targets, sources):
        torch._foreach_lerp_(*many, weight)  # pyright: ignore[reportPrivateImportUsage]


def _kinds(
    targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Targets of one type of number each, with their sources."""
    kinds: dict[torch.dtype, list[int]] = {}
    for at, target in enumerate(targets):
        kinds.setdefault(target.dtype, []).append(at)
    for places in kinds.values():
        yield [targets[at] for at in places], [sources[at] for at in places]


def _fresh(decay: float, step: int) -> float:
    """What a step weighs in the average: more at first, or a short training would end near its random start."""
    return max(1 - decay, 9 / (10 + step))


def _place(model: nn.Module, buffer: str) -> tuple[dict[str, Any], str]:
    path, _, own = buffer.rpartition(".")
    return model.get_submodule(path)._buffers, own


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, each in a place of its own: an expanded tensor can't be written to."""
    repeats = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    return tensor.contiguous() if repeats else tensor


@contextmanager
def _generators_kept() -> Generator[None, None, None]:
    """Leaves Python's and numpy's random state as it was."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _seed(seed: int, step: int) -> None:
    """For all that a step draws in this process: torch's generators, Python's and numpy's."""
    numbers = np.random.SeedSequence([seed & 0xFFFF_FFFF_FFFF_FFFF, step, Ranks.here().rank])
    drawn = int(numbers.generate_state(1, np.uint64)[0])
    torch.manual_seed(drawn)
    random.seed(drawn)
    np.random.seed(drawn & 0xFFFF_FFFF)
