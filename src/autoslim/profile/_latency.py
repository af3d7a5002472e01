"""How long networks take on this machine's CPU."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

_WARM_UP = 2


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median of `repeats`, and the quarter below and above which others lie."""

    median: float
    low: float
    high: float
    repeats: int

    def __str__(self) -> str:
        return f"{self.median:.1f} ms (half of {self.repeats} runs took {self.low:.1f} to {self.high:.1f})"


def measure_latency(models: Sequence[nn.Module], x: torch.Tensor, *, repeats: int = 20) -> list[Latency]:
    """Times forward passes on one thread.

    The networks take turns: what slows the machine for a while slows all of them, and their order stays true.

    Args:
        models: Networks; put into eval mode.
        x: What they run on, e.g. one image [1, C, H, W].
        repeats: Timed passes of each, after two that are not.

    Returns:
        One for each of `models`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for model in models:
                model.eval()
                for _ in range(_WARM_UP):
                    model(x)
            times = np.array([[_time(model, x) for model in models] for _ in range(repeats)])
    finally:
        torch.set_num_threads(threads)
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75), axis=0)
    return [Latency(float(median[i]), float(low[i]), float(high[i]), repeats) for i in range(len(models))]


def _time(model: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    model(x)
    return 1e3 * (time.perf_counter() - start)
