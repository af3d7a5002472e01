"""Image classification: cross entropy, soft targets, top-1 accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from autoslim.tasks._base import TASKS

_AUXILIARY = 0.3  # weight of an auxiliary head's loss (Szegedy et al. 2015, section 5)


class Classification:
    """Logits [N, classes] against labels [N]; further outputs in training are auxiliary heads, weighted 0.3."""

    name = "classification"
    metric = "accuracy"

    def loss(self, output: Any, labels: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        heads = _heads(output)
        losses = [functional.cross_entropy(_wide(head), labels, label_smoothing=smoothing) for head in heads]
        return losses[0] + _AUXILIARY * sum(losses[1:], torch.zeros_like(losses[0]))

    def teach(self, output: Any) -> Any:
        """The widest's soft output (temperature 1), one distribution per head (paper, section 3.2)."""
        return [functional.softmax(_wide(head.detach()), dim=1) for head in _heads(output)]

    def distill(self, output: Any, taught: Any) -> torch.Tensor:
        """Cross entropy with the soft targets: the Kullback-Leibler divergence up to a constant."""
        losses = [
            functional.cross_entropy(_wide(head), soft) for head, soft in zip(_heads(output), taught, strict=True)
        ]
        return losses[0] + _AUXILIARY * sum(losses[1:], torch.zeros_like(losses[0]))

    def judge(self, output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = _heads(output)[0].cpu().double(), labels.cpu()  # some accelerators have no float64
        return functional.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).double()


def _heads(output: Any) -> Sequence[torch.Tensor]:
    """The logits first, then those of auxiliary heads, whatever container the model gives them in."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = list(output.values()) if isinstance(output, Mapping) else list(output)
    return [value for value in values if isinstance(value, torch.Tensor)]


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """In float32 at least, whatever precision the network calculates in."""
    return logits if logits.dtype == torch.float64 else logits.float()


TASKS.register("classification", Classification())
