"""ONNX Runtime on the CPU, with all its graph optimisations."""

from typing import ClassVar

import torch
from torch import nn

from autoslim.runtimes._base import RUNTIMES, Pass, Runtime, load_package, stopwatch
from autoslim.runtimes._onnx import INPUT, export_onnx, open_onnx


class OnnxRuntime(Runtime):
    """The network exported to ONNX, on threads of the session's own."""

    name: ClassVar[str] = "onnxruntime"

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        session = open_onnx(export_onnx(model, x), threads=threads)
        images = {INPUT: x.numpy()}
        return stopwatch(lambda: session.run(None, images))

    def version(self) -> str:
        return f"onnxruntime {load_package('onnxruntime', self.name, 'onnx').__version__}, torch {torch.__version__}"


RUNTIMES.register("onnxruntime", OnnxRuntime)
