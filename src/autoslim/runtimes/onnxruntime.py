"""ONNX Runtime on the CPU, with all its graph optimisations."""

from typing import Any, ClassVar

import torch
from torch import nn

from autoslim.runtimes._base import RUNTIMES, Pass, Runtime, load_package, stopwatch
from autoslim.runtimes._onnx import INPUT, export_onnx


class OnnxRuntime(Runtime):
    """The network exported to ONNX, on threads of the session's own."""

    name: ClassVar[str] = "onnxruntime"

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        package: Any = load_package("onnxruntime", self.name, "onnx")
        options = package.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # as `quick_torch` does
        options.log_severity_level = 3  # errors only
        session = package.InferenceSession(export_onnx(model, x), options, providers=["CPUExecutionProvider"])
        images = {INPUT: x.numpy()}
        return stopwatch(lambda: session.run(None, images))

    def version(self) -> str:
        return f"onnxruntime {load_package('onnxruntime', self.name, 'onnx').__version__}, torch {torch.__version__}"


RUNTIMES.register("onnxruntime", OnnxRuntime)
