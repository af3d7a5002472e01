"""PyTorch through `torch.compile` (Inductor), static shapes: each network takes seconds to a minute to prepare."""

import copy
from typing import ClassVar

import torch
from torch import nn

from autoslim.errors import RuntimeFailedError
from autoslim.runtimes._base import RUNTIMES, Pass, Runtime, stopwatch


class TorchCompile(Runtime):
    """Compiled for the shapes of the images; needs a C++ compiler on a CPU."""

    name: ClassVar[str] = "torch.compile"
    samples: ClassVar[int] = 16

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        torch.compiler.reset()  # the class's code was compiled for other widths; without this it turns dynamic
        compiled = torch.compile(copy.deepcopy(model), dynamic=False)

        def run() -> None:
            with torch.inference_mode():
                compiled(x)

        try:
            run()
        except Exception as error:
            raise RuntimeFailedError(
                f"Runtime 'torch.compile' can't compile {type(model).__name__}: {error}. Expected a network that "
                "torch.compile takes and a working C++ compiler. Choose --runtime torch, or repair either."
            ) from error
        return stopwatch(run)

    def version(self) -> str:
        return f"torch.compile {torch.__version__}"


RUNTIMES.register("torch.compile", TorchCompile)
