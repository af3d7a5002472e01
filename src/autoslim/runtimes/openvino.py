"""OpenVINO on the CPU, tuned for latency."""

from typing import Any, ClassVar

import torch
from torch import nn

from autoslim.runtimes._base import RUNTIMES, Pass, Runtime, load_package, stopwatch
from autoslim.runtimes._onnx import OPSET, export_onnx

_TYPES = {"fp32": "f32", "bf16": "bf16"}


class OpenVino(Runtime):
    """The network exported to ONNX and compiled; bf16 is done by the plugin."""

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = tuple(_TYPES)

    def prepare(self, model: nn.Module, x: torch.Tensor, *, threads: int, precision: str) -> Pass:
        package: Any = load_package("openvino", self.name, "openvino")
        core = package.Core()
        compiled = core.compile_model(
            core.read_model(export_onnx(model, x), b""),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "CPU_DENORMALS_OPTIMIZATION": True,  # as `quick_torch` does
                "INFERENCE_PRECISION_HINT": _TYPES[precision],
            },
        )
        request, images = compiled.create_infer_request(), [x.numpy()]
        return stopwatch(lambda: request.infer(images))

    def version(self) -> str:
        package = load_package("openvino", self.name, "openvino")
        return f"openvino {package.__version__}, torch {torch.__version__}, opset {OPSET}"


RUNTIMES.register("openvino", OpenVino)
