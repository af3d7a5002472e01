"""How long networks take on this machine's CPU."""

from collections.abc import Sequence

import torch
from torch import nn

from autoslim.runtimes import Latency as Latency
from autoslim.runtimes import find_runtime, measure_networks


def measure_latency(models: Sequence[nn.Module], x: torch.Tensor, *, repeats: int = 20) -> list[Latency]:
    """Times forward passes of plain PyTorch on one thread, the networks in turns.

    Args:
        models: Networks; put into eval mode.
        x: What they run on, e.g. one image [1, C, H, W].
        repeats: Rounds, as `autoslim.runtimes` measures.

    Returns:
        One for each of `models`.
    """
    return measure_networks(find_runtime("torch"), models, x, repeats=repeats)
