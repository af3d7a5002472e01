"""What a network is for: the one place that knows its loss, what the widest teaches, and the metric."""

from typing import Any, Protocol

import torch

from autoslim._registry import Registry


class Task(Protocol):
    """Loss, distillation target and metric of a kind of network."""

    name: str
    metric: str

    def loss(self, output: Any, labels: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """The training loss from labels: a scalar, the mean over the batch."""
        ...

    def teach(self, output: Any) -> Any:
        """What the others learn from the widest's output, detached."""
        ...

    def distill(self, output: Any, taught: Any) -> torch.Tensor:
        """The loss of an output against what was taught: a scalar, the mean over the batch."""
        ...

    def judge(self, output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and metric of each image, float64 [N] each."""
        ...


TASKS: Registry[Task] = Registry("task")
