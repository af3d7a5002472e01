"""ONNX Runtime on the CPU, with all its graph optimisations."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoslim.runtimes._base import RUNTIMES, Pass, Runtime, load_package, stopwatch, take_turns
from autoslim.runtimes._onnx import OPSET, export_onnx, open_onnx


class OnnxRuntime(Runtime):
    """The network exported to ONNX, on threads of the session's own."""

    name: ClassVar[str] = "onnxruntime"

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        return _prepare(export_onnx(model, x), x, threads)

    def version(self) -> str:
        package = load_package("onnxruntime", self.name, "onnx")
        return f"onnxruntime {package.__version__}, torch {torch.__version__}, opset {OPSET}"


def time_files(files: Sequence[Path], x: torch.Tensor, *, threads: int = 1, repeats: int = 20) -> NDArray[np.float64]:
    """Times ONNX files against each other in ONNX Runtime, as `take_turns` does.

    Args:
        files: Each with one input.
        x: What they run on, [N, C, H, W].
        threads: Of each session.
        repeats: Rounds.

    Returns:
        Milliseconds, shape [repeats, files].

    Raises:
        RuntimeFailedError: ONNX Runtime is not installed.
    """
    return take_turns([_prepare(file, x, threads) for file in files], repeats=repeats)


def _prepare(source: Path | bytes, x: torch.Tensor, threads: int) -> Pass:
    session = open_onnx(source, threads=threads)
    images = {session.get_inputs()[0].name: x.numpy()}
    return stopwatch(lambda: session.run(None, images))


RUNTIMES.register("onnxruntime", OnnxRuntime)
