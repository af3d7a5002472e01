"""What runs a network where it will serve, and the one way to time it."""

import contextlib
import os
import platform
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoslim._extras import install_extra
from autoslim._registry import Registry
from autoslim.errors import AutoSlimError, ConfigError, RuntimeFailedError, describe_error

Pass = Callable[[], float]  # runs a network once and gives the milliseconds that it took

_WARM_UP, _BURST = 2, 2
_NOISY = 0.1


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median of `repeats` rounds, and the quarters below and above it.

    >>> Latency(4.0, 3.5, 4.5, 20).spread, Latency(4.0, 3.5, 4.5, 20).noisy
    (0.25, True)
    """

    median: float
    low: float
    high: float
    repeats: int

    @property
    def spread(self) -> float:
        """Distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / self.median if self.median > 0 else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy to tell: the middle half of the rounds lies more than 10% apart."""
        return self.spread > _NOISY

    def __str__(self) -> str:
        if self.repeats == 1:
            return f"{self.median:.3g} ms (measured once)"
        return f"{self.median:.3g} ms (half of {self.repeats} runs took {self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Runtime(ABC):
    """A way to run a network on this machine, or elsewhere. A new one is one file: `prepare`, and `version`.

    Attributes:
        argument: What stands after the colon of "name:argument"; "" for most.
    """

    argument: str = ""

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    samples: ClassVar[int] = 72
    """Networks to measure for a prediction, where preparing one takes under a second."""
    once: ClassVar[bool] = False
    """Whether a pass is asked for once only: it repeats by itself, or is too dear."""
    hint: ClassVar[str] = ""
    """What the argument is, where one must be given."""

    @abstractmethod
    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        """Makes a network ready to run.

        Args:
            model: In eval mode; left as it is.
            x: What it runs on, [N, C, H, W].
            threads: How many it may use. (torch's own number is set by who measures.)
            precision: One of `precisions`.
        """

    @contextlib.contextmanager
    def together(self, count: int) -> Generator[None, None, None]:
        """What holds while so many networks are prepared and timed against each other: nothing, for most runtimes."""
        yield

    @abstractmethod
    def version(self) -> str:
        """What may change the time: the versions of the packages, or the program's text."""

    @property
    def spec(self) -> str:
        """How it is written on the command line."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


RUNTIMES: Registry[type[Runtime]] = Registry("runtime")


def find_runtime(text: str) -> Runtime:
    """The runtime that "torch", "onnxruntime" or "command:./measure.sh {onnx}" names.

    Raises:
        UnknownNameError: No such runtime.
        ConfigError: An argument too many, or none where one is needed.

    >>> find_runtime("torch").spec, find_runtime("command:./phone.sh {onnx}").argument
    ('torch', './phone.sh {onnx}')
    """
    name, _, argument = text.partition(":")
    kind = RUNTIMES[name.strip()]
    if bool(argument.strip()) != bool(kind.hint):
        expected = f"{name}:{kind.hint}" if kind.hint else repr(name)
        raise ConfigError(
            f"Runtime {text!r}: expected {expected}. Write --runtime {shlex.quote(expected.strip(chr(39)))}."
        )
    return kind(argument.strip())


def check_setting(runtime: Runtime, *, threads: int, precision: str) -> None:
    """Raises ConfigError for a precision that the runtime does not have, or no thread."""
    if precision not in runtime.precisions:
        raise ConfigError(
            f"Runtime {runtime.name!r}: precision {precision!r}; expected {' or '.join(runtime.precisions)}. "
            f"Write --runtime-precision {runtime.precisions[0]}, or choose another runtime."
        )
    if threads < 1:
        raise ConfigError(
            f"Runtime {runtime.name!r}: threads is {threads}; expected 1 or more. Write --runtime-threads 1."
        )


def load_package(name: str, runtime: str, extra: str) -> ModuleType:
    """Imports what a runtime runs on; RuntimeFailedError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise RuntimeFailedError(
            f"Runtime {runtime!r}: the package {name!r} can't be imported ({error}); expected it to be installed. "
            f"Install it with {install_extra(extra)}, or choose another runtime."
        ) from error


def describe_machine() -> str:
    """What tells this machine from another: its processor and how many cores there are."""
    name = read_processor("model name") or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def read_processor(*names: str) -> str:
    """What Linux tells of the first processor under one of these names; "" where it tells nothing."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(names)), "")
    return ""


def stopwatch(run: Callable[[], object]) -> Pass:
    """A pass that is timed from outside."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)

    return timed


def take_turns(passes: Sequence[Pass], *, repeats: int) -> NDArray[np.float64]:
    """Times networks in rounds: in each, every one runs once unmeasured and then twice, the better of which counts.

    What slows the machine for a while slows all of them, so that their order stays true; and each is measured with its
    own weights in the caches, as where it alone serves. Before the rounds each runs twice.

    Returns:
        Milliseconds, shape [repeats, passes].
    """
    for each in passes:
        for _ in range(_WARM_UP):
            each()
    return np.array([[_burst(each) for each in passes] for _ in range(repeats)])


def _burst(each: Pass) -> float:
    each()
    return min(each() for _ in range(_BURST))


def time_networks(
    runtime: Runtime,
    models: Sequence[nn.Module],
    x: torch.Tensor,
    *,
    threads: int = 1,
    precision: str = "fp32",
    repeats: int = 20,
) -> NDArray[np.float64]:
    """Prepares networks and times them against each other, as `take_turns` does.

    Args:
        runtime: From `find_runtime`.
        models: Networks; put into eval mode.
        x: What they run on, e.g. one image [1, C, H, W].
        threads: For the runtime.
        precision: For the runtime.
        repeats: Rounds; a runtime whose pass is asked for once has one.

    Returns:
        Milliseconds, shape [rounds, models].

    Raises:
        ConfigError: The runtime has no such precision, or the networks or images are not on the CPU.
        RuntimeFailedError: It could not run one of them, or told no time.
    """
    check_setting(runtime, threads=threads, precision=precision)
    places = {each.device.type for model in models for each in model.parameters()} | {x.device.type}
    if places != {"cpu"}:
        raise ConfigError(
            f"Runtime {runtime.spec!r}: the network or its images lie on {' and '.join(sorted(places))}; expected the "
            "CPU: a runtime takes them from there to where it runs. Write model.cpu() and x.cpu()."
        )
    try:
        with quick_torch(threads), runtime.together(len(models)):
            passes = [runtime.prepare(model.eval(), x, threads=threads, precision=precision) for model in models]
            times = np.array([[each() for each in passes]]) if runtime.once else take_turns(passes, repeats=repeats)
    except AutoSlimError:
        raise
    except Exception as error:
        raise RuntimeFailedError(
            f"Runtime {runtime.spec!r} can't run {type(models[0]).__name__} on {list(x.shape)}, {precision}: "
            f"{describe_error(error)}. Expected a network that it takes, at this batch and size. Choose another "
            "--runtime, --runtime-batch or --runtime-precision, or mend the network."
        ) from error
    if not (np.isfinite(times) & (times > 0)).all():
        raise RuntimeFailedError(
            f"Runtime {runtime.spec!r} told {times[~(np.isfinite(times) & (times > 0))][0]:g} ms; expected a finite "
            "number above 0. Check how it measures."
        )
    return times


def measure_networks(
    runtime: Runtime,
    models: Sequence[nn.Module],
    x: torch.Tensor,
    *,
    threads: int = 1,
    precision: str = "fp32",
    repeats: int = 20,
) -> list[Latency]:
    """The latencies of networks, timed as `time_networks` does, whose arguments and errors it has."""
    return sum_up(time_networks(runtime, models, x, threads=threads, precision=precision, repeats=repeats))


def sum_up(times: NDArray[np.float64]) -> list[Latency]:
    """The latencies that rounds tell, [rounds, networks] in milliseconds.

    >>> sum_up(np.array([[1.0, 4.0], [3.0, 4.0], [2.0, 4.0]]))[0].median
    2.0
    """
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75), axis=0).tolist()
    return [Latency(*each, len(times)) for each in zip(median, low, high, strict=True)]


@contextlib.contextmanager
def quick_torch(threads: int) -> Generator[None, None, None]:
    """Sets torch's number of threads for a while, and counts vanishing numbers as 0.

    An untrained network's values may shrink, layer by layer, to where a processor needs a hundred times as long for
    them; the trained one's don't, and it is the one that will serve.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with flushing_kept():
            torch.set_flush_denormal(True)
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def flushing_kept() -> Generator[None, None, None]:
    """Whether vanishing numbers count as 0 in this thread is afterwards as it was."""
    flushed = not torch.full((1,), 1e-310, dtype=torch.float64).mul(1).item()
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
