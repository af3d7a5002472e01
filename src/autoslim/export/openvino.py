"""OpenVINO's own files, `.xml` and `.bin`, by way of ONNX; loaded back on its CPU plugin in float32."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim.export._base import FORMATS, Format, Options, Served
from autoslim.runtimes import export_onnx, load_package, opset_of


def _package() -> Any:
    return load_package("openvino", "openvino", "openvino")


def _write(model: nn.Module, x: torch.Tensor, path: Path, options: Options) -> int:
    package, data = _package(), export_onnx(model, x, opset=options.opset, dynamic=options.dynamic)
    package.save_model(package.Core().read_model(data, b""), str(path), compress_to_fp16=False)
    return opset_of(data)


def _open(path: Path, _: nn.Module) -> Served:
    compiled: Any = _package().Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: [compiled([images.numpy()])[at].copy() for at in range(len(compiled.outputs))]


FORMATS.register("openvino", Format(suffix=".xml", write=_write, open=_open))
