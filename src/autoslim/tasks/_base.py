"""What a network is for: the one place that knows its loss, what the widest teaches, the metric, and the targets."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoslim._code import run_code
from autoslim._registry import Registry, unknown_name
from autoslim.errors import ConfigError


@dataclass(frozen=True)
class Metric:
    """What the final table tells of a network.

    Inside the library, and in the files of a search, more is always better: a metric of which less is better stands
    there with its sign turned. People are told it as it is.

    >>> error = Metric("mean absolute error", higher=False, share=False)
    >>> error.turn(-0.25), error.say(-0.25), Metric("accuracy").say(0.98765)
    (0.25, '0.25', '98.8%')

    Attributes:
        name: In words, as tables head it.
        higher: Whether more is better.
        share: Whether it is a share from 0 to 1, told in percent; else any number.
        whole: Gives it from the facts of all images, [N, ...], where it is no mean over images; None: it is the mean
            of a number for each image, which is what `Task.judge` gives.
    """

    name: str
    higher: bool = True
    share: bool = True
    whole: Callable[[NDArray[Any]], float] | None = None

    def turn(self, value: float) -> float:
        """The metric from the number of which more is better, and the other way round."""
        return value if self.higher else -value

    def say(self, worth: float, digits: int = 1) -> str:
        """The metric in words, given the number of which more is better; a share has so many digits in percent."""
        return f"{worth:.{digits}%}" if self.share else f"{self.turn(worth):.4g}"

    def tell(self, worth: float, digits: int = 2) -> str:
        """The same for a line of its own, where an accuracy needs no name.

        >>> Metric("accuracy").tell(0.5), Metric("mean IoU").tell(0.5)
        ('50.00%', '50.00% mean IoU')
        """
        return self.say(worth, digits) + ("" if self.key == "accuracy" else f" {self.name}")

    @property
    def key(self) -> str:
        """What files call it: "accuracy", or "score" where it is another metric."""
        return "accuracy" if self == Metric("accuracy") else "score"

    def say_gain(self, gain: float) -> str:
        """A difference of two such numbers, signed as people are told the metric; of shares in percentage points."""
        return f"{100 * gain:+.1f}" if self.share else f"{self.turn(gain):+.3g}"


@dataclass(frozen=True)
class Fit:
    """How an image came to the size of the input: scaled, then cut.

    Attributes:
        scaled: Its height and width after scaling.
        corner: Top and left of what is kept of that, in pixels.
        size: Height and width of what is kept: the input's.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]


class Targets(Protocol):
    """What a data set tells of each image beside a class, as arrays of one shape, and how it follows the image."""

    @property
    def augments(self) -> tuple[str, ...]:
        """The `--augment` that it can follow."""
        ...

    @property
    def at_once(self) -> int:
        """Images of a batch that judges: what a network gives for them must fit into memory."""
        ...

    def read(self, target: Any, size: tuple[int, int]) -> NDArray[Any]:
        """The target of one item as an array, for an image of this height and width.

        Raises:
            ValueError: Another kind of target: what it is, and what was expected.
        """
        ...

    def stratum(self, target: NDArray[Any]) -> int:
        """The kind of image, 0 or more: each kind is divided in proportion when images are held out."""
        ...

    def outputs(self, target: NDArray[Any]) -> int:
        """How many outputs a network needs for it: classes, or numbers."""
        ...

    def fit(self, target: NDArray[Any], fit: Fit) -> NDArray[Any]:
        """The target of an image that was brought to the size of the input."""
        ...

    def join(self, targets: Sequence[NDArray[Any]]) -> torch.Tensor:
        """The fitted targets of N images as one tensor [N, ...]."""
        ...

    def move(self, targets: torch.Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> torch.Tensor:
        """The targets of B images of which augmentation took other pixels.

        Args:
            targets: [B, ...], of what `join` gave.
            rows: The row that is now at each row, shape [B, H].
            columns: Likewise [B, W]; descending where the image is mirrored.
        """
        ...


class Task(Protocol):
    """Loss, distillation target and metric of a kind of network, and what its targets are."""

    @property
    def name(self) -> str:
        """As `--task` has it."""
        ...

    @property
    def metric(self) -> Metric:
        """What is told of a network."""
        ...

    @property
    def targets(self) -> Targets | None:
        """How the targets of images are read and follow them; None: labels, one class for each image."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether images come with the mean and deviation of train; else from 0 to 1."""
        ...

    def example(self) -> tuple[nn.Module, torch.Tensor, Sequence[Any], int]:
        """A small network, images [N, C, H, W], N targets as a data set gives them, and outputs: for the contract test.

        The images come as the task has them, normalised or from 0 to 1.
        """
        ...

    def adapt(self, model: nn.Module) -> nn.Module:
        """The user's network as it is traced, trained and judged: images [N, C, H, W] in, tensors out, in both modes.

        Most are that already, and are given back. Another module must hold the same tensors under the same names, for
        what is saved is loaded into the user's own.

        Raises:
            ModelError: A network of another kind.
            ConfigError: A package that the task needs is not installed.
        """
        ...

    def check(self, output: Any, outputs: int) -> str | None:
        """Holds what the network gives for two images against what the targets ask for.

        What fits but is more than they ask for may be told, in a clause about the network ("it has ..."); else None.

        Args:
            output: Of the adapted network, in eval mode.
            outputs: Classes, or numbers.

        Raises:
            ValueError: It does not fit: what it is, and what was expected.
        """
        ...

    def loss(self, output: Any, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """The training loss: a scalar, the mean over the batch; `targets` are labels [N] or [N, ...]."""
        ...

    def teach(self, output: Any) -> Any:
        """What the others learn from the widest's output, detached."""
        ...

    def distill(self, output: Any, taught: Any) -> torch.Tensor:
        """The loss of an output against what was taught: a scalar, the mean over the batch."""
        ...

    def judge(self, output: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and metric of each image, float64 [N] each; instead of the latter facts [N, ...] for `Metric.whole`."""
        ...


TASKS: Registry[Task] = Registry("task")
_MEMBERS = tuple(name for name in vars(Task) if not name.startswith("_"))


def find_task(name: str, *, sha256: str = "") -> Task:
    """The task of a name, or what a file's factory, called without arguments, returns. The file is code, and is run.

    >>> find_task("classification").metric.name
    'accuracy'

    Args:
        name: In `TASKS`, or "path/to/file.py:FACTORY".
        sha256: Of the file; if it is given and another one is there, that is not run.

    Raises:
        UnknownNameError: No such task; the message lists the closest.
        ConfigError: There is no such file, it is another one, it fails, or gives no task.
    """
    if not re.fullmatch(r".+\.py:\w+", name):
        if name not in TASKS:
            raise unknown_name(TASKS.kind, name, list(TASKS), hint="A task of your own: path/to/file.py:factory.")
        return TASKS[name]
    text, _, factory = name.rpartition(":")
    path = Path(text).expanduser().resolve()
    expected = f"expected a file with a function {factory}() that returns a task"
    if not path.is_file():
        raise ConfigError(f"Task {name}: there is no such file; {expected}. Check the path.")
    data = path.read_bytes()
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise ConfigError(
            f"Task {name}: the file has changed; expected the one with sha256 {sha256}. Put it back as it was, from "
            "version control or a copy."
        )
    try:
        task = getattr(run_code(path, data), factory)()
    except (Exception, SystemExit) as error:  # it is the user's own code, and is told
        raise ConfigError(f"Task {name}: {type(error).__name__}: {error}; {expected}. Correct it.") from error
    missing = [each for each in _MEMBERS if not hasattr(task, each)]
    if missing:
        raise ConfigError(
            f"Task {name}: {type(task).__name__} has no `{missing[0]}`; {expected}, with {', '.join(_MEMBERS)}. "
            "See autoslim.tasks.Task."
        )
    return task
