"""ONNX, loaded back in ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim.export._base import FORMATS, Format, Options, Served
from autoslim.runtimes import export_onnx, open_onnx, opset_of


def _write(model: nn.Module, x: torch.Tensor, path: Path, options: Options) -> int:
    data = export_onnx(model, x, opset=options.opset, dynamic=options.dynamic)
    path.write_bytes(data)
    return opset_of(data)


def _open(path: Path, _: nn.Module) -> Served:
    session: Any = open_onnx(path)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})


FORMATS.register("onnx", Format(suffix=".onnx", write=_write, open=_open))
