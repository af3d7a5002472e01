"""Static quantisation to int8 through ONNX Runtime: 8 bits for weights and activations, from the ranges it sees."""

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from autoslim.errors import RuntimeFailedError
from autoslim.run_folder import write_whole
from autoslim.runtimes import load_package


class _Reader:
    """Gives ONNX Runtime's calibration a batch at a time."""

    def __init__(self, name: str, batches: Iterable[torch.Tensor]) -> None:
        self._name, self._batches = name, iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        images = next(self._batches, None)
        return None if images is None else {self._name: images.numpy()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.get_next, None)  # pyright: ignore[reportReturnType, reportCallIssue, reportArgumentType]


def quantize_onnx(source: Path, target: Path, batches: Iterable[torch.Tensor], *, name: str = "input") -> None:
    """Writes an ONNX file anew with int8 weights (one scale per channel) and activations, whole or not at all.

    What it is worth has to be measured: nothing here knows how much accuracy it costs.

    Args:
        source: A float32 file.
        target: The int8 file.
        batches: Images [N, C, H, W], none of them test images, of as many as the file takes at a time: the range of
            each activation is that which they show.
        name: Of the file's input.

    Raises:
        RuntimeFailedError: ONNX Runtime is not installed, or can't quantise this network.
    """
    package: Any = load_package("onnxruntime.quantization", "onnxruntime", "onnx")
    shapes: Any = load_package("onnxruntime.quantization.shape_inference", "onnxruntime", "onnx")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it advises to do what is done here
        ready, done = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        try:
            shapes.quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            package.quantize_static(
                str(ready),
                str(done),
                _Reader(name, batches),
                quant_format=package.QuantFormat.QDQ,
                per_channel=True,
                activation_type=package.QuantType.QInt8,
                weight_type=package.QuantType.QInt8,
            )
        except Exception as error:  # it raises anything
            raise RuntimeFailedError(
                f"ONNX Runtime can't quantise {source.name}: {type(error).__name__}: {error}. Expected a network whose "
                "convolutions and matrix products it knows. Leave out --int8, or try another --opset."
            ) from error
        finally:
            logging.disable(before)
        write_whole(target, lambda aside: copyfile(done, aside))
