"""A network as an ONNX file, for the runtimes that read one."""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.errors import ConfigError, ModelError, describe_error
from autoslim.runtimes._base import flushing_kept, load_package

INPUT, OUTPUT = "input", "output"
OPSET, LATER = 18, 20  # of what is measured, and exported unless told otherwise; the later where the first can't do


def export_onnx(model: nn.Module, x: torch.Tensor, *, opset: int | None = None, dynamic: bool = False) -> bytes:
    """The network, in eval mode and for images of exactly this shape, as the bytes of an ONNX file.

    torch's older exporter (by tracing) is asked first: it takes a tenth of the time of the newer (by torch.export).
    Where it fails, the newer is asked, which may take minutes. Both give the same network.

    Args:
        model: Its input is called "input" in the file, its outputs as `name_outputs` says.
        x: Example images [N, C, H, W].
        opset: Version of ONNX's operators; default 18, or 20 where the older exporter knows no way in 18.
        dynamic: Whether any number of images may be given at a time.

    Raises:
        RuntimeFailedError: The package onnx is not installed.
        ModelError: Neither can export it.
        ConfigError: They can, but not in this version of the operators.
    """
    load_package("onnx", "onnx", "onnx")
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the exporter itself, and its notes on constants
        path = Path(folder) / "network.onnx"
        versions = (OPSET, LATER) if opset is None else (opset,)
        for dynamo, wanted in [*((False, each) for each in versions), (True, versions[0])]:
            any_batch = ({0: torch.export.Dim("batch")},) if dynamo else None
            try:
                with torch.no_grad():
                    outputs = name_outputs(model.eval()(x))
                batched = (INPUT, *(name for name, output in outputs.items() if output.shape[:1] == x.shape[:1]))
                torch.onnx.export(
                    *(model, (x,), path),
                    input_names=[INPUT],
                    output_names=list(outputs),
                    opset_version=wanted,
                    dynamic_axes={name: {0: "batch"} for name in batched} if dynamic and not dynamo else None,
                    dynamic_shapes=any_batch if dynamic else None,
                    dynamo=dynamo,
                    external_data=False,
                    verbose=False,
                )
            except Exception as error:  # noqa: BLE001 - exporters raise anything; all of it is told below
                reasons.append(describe_error(error))
                continue
            version = opset_of(path.read_bytes())
            if opset not in (None, version):  # what it can't convert, the newer one writes as it has it
                raise ConfigError(
                    f"{type(model).__name__} as ONNX: torch writes it with opset {version}; expected {opset}, as was "
                    f"asked for. Write --opset {version}."
                )
            return path.read_bytes()
    raise ModelError(
        f"{type(model).__name__} can't be exported to ONNX: {'; '.join(reasons)}. Expected a network that "
        "torch.onnx.export takes. Measure with --runtime torch, or rewrite what it names."
    )


def opset_of(file: bytes) -> int:
    """The version of ONNX's operators in a file."""
    package: Any = load_package("onnx", "onnx", "onnx")
    (version,) = [each.version for each in package.load_from_string(file).opset_import if each.domain == ""]
    return version


def name_outputs(output: Any) -> dict[str, torch.Tensor]:
    """The tensors that a network gives, by their names in a file: a mapping's own keys, else "output", "output_1", ...

    >>> list(name_outputs((torch.ones(1), torch.ones(1)))), list(name_outputs({"out": torch.ones(1)}))
    (['output', 'output_1'], ['out'])
    """
    if isinstance(output, Mapping) and all(isinstance(each, torch.Tensor) for each in output.values()):
        return {str(name): each for name, each in output.items()}
    tensors = [each for each in tree_leaves(output) if isinstance(each, torch.Tensor)]
    return {f"{OUTPUT}_{at}" if at else OUTPUT: each for at, each in enumerate(tensors)}


def open_onnx(source: Path | bytes, *, threads: int = 1, optimized: Path | None = None) -> Any:
    """An ONNX file, or its bytes, in a session of ONNX Runtime on the CPU.

    Args:
        source: The network.
        threads: That the session may use.
        optimized: A file for the network as the session runs it, its operators fused for this processor.
    """
    package: Any = load_package("onnxruntime", "onnxruntime", "onnx")
    options = package.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # as `quick_torch` does
    options.log_severity_level = 3  # errors only
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    with flushing_kept():  # the first session of a process sets this thread, too, and leaves it so
        return package.InferenceSession(source, options, providers=["CPUExecutionProvider"])
