"""PyTorch through `torch.compile` (Inductor), static shapes: each network takes seconds to a minute to prepare."""

import contextlib
import copy
from collections.abc import Generator
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

    @contextlib.contextmanager
    def together(self, count: int) -> Generator[None, None, None]:
        """Networks share their classes' code, of which few versions are kept unless asked: room for one of each."""
        from torch._dynamo import config  # seconds to import: only who compiles pays for it

        torch.compiler.reset()  # what was compiled before takes none of it
        most = {name: max(getattr(config, name), count) for name in ("recompile_limit", "accumulated_recompile_limit")}
        with config.patch(most):
            yield

    def version(self) -> str:
        return f"torch.compile {torch.__version__}"


RUNTIMES.register("torch.compile", TorchCompile)
