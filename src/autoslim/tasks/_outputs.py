"""What several tasks do with a network's outputs, and the images of their examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

AUXILIARY = 0.3  # weight of an auxiliary head's loss (Szegedy et al. 2015, section 5)


def heads_of(output: Any) -> Sequence[torch.Tensor]:
    """The logits first, then those of auxiliary heads, whatever container the model gives them in."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = list(output.values()) if isinstance(output, Mapping) else list(output)
    return [value for value in values if isinstance(value, torch.Tensor)]


def weigh_heads(losses: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first head's loss, and 0.3 of each auxiliary one's."""
    return losses[0] + AUXILIARY * sum(losses[1:], torch.zeros_like(losses[0]))


def note_spare(given: int, outputs: int) -> str | None:
    """What is told of a network with outputs that no target asks for; None where there are none.

    >>> note_spare(5, 4)
    'it has outputs for 5 classes, and there are 4: the rest are never right, and cost MACs in the last layer'
    """
    if given <= outputs:
        return None
    told = f"it has outputs for {given} classes, and there are {outputs}"
    return f"{told}: the rest are never right, and cost MACs in the last layer"


def widen(logits: torch.Tensor) -> torch.Tensor:
    """In float32 at least, whatever precision the network calculates in."""
    return logits if logits.dtype == torch.float64 else logits.float()


def soften(output: Any) -> list[torch.Tensor]:
    """What the widest teaches by its logits: a distribution [N, classes, ...] per head (temperature 1)."""
    return [functional.softmax(widen(head.detach()), dim=1) for head in heads_of(output)]


def match_soft(output: Any, taught: Sequence[torch.Tensor]) -> torch.Tensor:
    """Cross entropy with such distributions: the Kullback-Leibler divergence up to a constant."""
    pairs = zip(heads_of(output), taught, strict=True)
    return weigh_heads([functional.cross_entropy(widen(head), soft) for head, soft in pairs])


def draw_images() -> torch.Tensor:
    """Four images [4, 3, 12, 16]: made-up numbers, always the same."""
    return torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
