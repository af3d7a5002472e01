"""Plain PyTorch, eager: what `model(x)` takes."""

import copy
from typing import ClassVar

import torch
from torch import nn

from autoslim.runtimes._base import RUNTIMES, Pass, Runtime, stopwatch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Torch(Runtime):
    """Eager PyTorch under `inference_mode`; half precisions convert parameters and images."""

    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = tuple(DTYPES)

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        ready = model if precision == "fp32" else copy.deepcopy(model).to(DTYPES[precision])
        images = x.to(DTYPES[precision])

        def run() -> None:
            with torch.inference_mode():
                ready(images)

        return stopwatch(run)

    def version(self) -> str:
        return f"torch {torch.__version__}"


RUNTIMES.register("torch", Torch)
