"""A network as an ONNX file, for the runtimes that read one."""

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from autoslim.errors import ModelError
from autoslim.runtimes._base import load_package

INPUT = "input"


def export_onnx(model: nn.Module, x: torch.Tensor) -> bytes:
    """The network, in eval mode and for images of exactly this shape, as the bytes of an ONNX file.

    torch's older exporter (by tracing) is asked first: it takes a tenth of the time of the newer (by torch.export).
    Where it fails, the newer is asked. Both give the same network.

    Args:
        model: Its input is called "input" in the file.
        x: Example images [N, C, H, W].

    Raises:
        RuntimeFailedError: The package onnx is not installed.
        ModelError: Neither can export it.
    """
    load_package("onnx", "onnx", "onnx")
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the exporter itself, and its notes on constants
        path = Path(folder) / "network.onnx"
        for dynamo in (False, True):
            try:
                torch.onnx.export(
                    *(model.eval(), (x,), path),
                    input_names=[INPUT],
                    dynamo=dynamo,
                    external_data=False,
                    verbose=False,
                )
                return path.read_bytes()
            except Exception as error:  # noqa: BLE001 - exporters raise anything; all of it is told below
                reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    raise ModelError(
        f"{type(model).__name__} can't be exported to ONNX: {'; '.join(reasons)}. Expected a network that "
        "torch.onnx.export takes. Measure with --runtime torch, or rewrite what it names."
    )
