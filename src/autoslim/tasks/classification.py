"""Image classification: cross entropy, soft targets, top-1 accuracy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autoslim.tasks._base import TASKS, Metric
from autoslim.tasks._outputs import draw_images, heads_of, match_soft, note_spare, soften, weigh_heads, widen


class Classification:
    """Logits [N, classes] against labels [N]; further outputs in training are auxiliary heads, weighted 0.3."""

    name = "classification"
    metric = Metric("accuracy")
    targets = None
    normalised = True

    def example(self) -> tuple[nn.Module, torch.Tensor, Sequence[Any], int]:
        layers = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
        return nn.Sequential(*layers), draw_images(), [0, 1, 2, 1], 3

    def adapt(self, model: nn.Module) -> nn.Module:
        return model

    def check(self, output: Any, outputs: int) -> str | None:
        shape = [list(head.shape) for head in heads_of(output)[:1]]
        if not shape or len(shape[0]) != 2 or shape[0][1] < outputs:
            raise ValueError(f"it is {shape[0] if shape else 'no tensor'}. Expected logits [N, {outputs}]")
        return note_spare(shape[0][1], outputs)

    def loss(self, output: Any, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        for head in heads_of(output):
            # a head may have outputs that no mixed label [N, classes] asks for
            spare = head.shape[1] - targets.shape[1] if targets.dim() == 2 else 0
            wanted = functional.pad(targets, (0, spare)) if spare > 0 else targets
            losses.append(functional.cross_entropy(widen(head), wanted, label_smoothing=smoothing))
        return weigh_heads(losses)

    def teach(self, output: Any) -> Any:
        """The widest's soft output (temperature 1), one distribution per head (paper, section 3.2)."""
        return soften(output)

    def distill(self, output: Any, taught: Any) -> torch.Tensor:
        """Cross entropy with the soft targets: the Kullback-Leibler divergence up to a constant."""
        return match_soft(output, taught)

    def judge(self, output: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = heads_of(output)[0].cpu().double(), targets.cpu()  # some accelerators have no float64
        return functional.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).double()


TASKS.register("classification", Classification())
