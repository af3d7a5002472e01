"""Static quantisation to 8 bits through ONNX Runtime, from the ranges that it sees; and whether it is faster so."""

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch

from autoslim.errors import RuntimeFailedError
from autoslim.run_folder import write_whole
from autoslim.runtimes import Latency, load_package, open_onnx, read_processor, sum_up, time_files

_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}  # flags of processors with instructions for products of int8


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
    """Writes an ONNX file anew with int8 weights (one scale per channel) and uint8 activations, whole or not at all.

    Signed activations would have the same 256 levels, but on x86 ONNX Runtime turns only some of them into the unsigned
    ones that its kernels there read, and leaves the layers in between in float.

    What it is worth has to be measured: nothing here knows how much accuracy it costs, or what it saves.

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
                activation_type=package.QuantType.QUInt8,
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


@dataclass(frozen=True, kw_only=True)
class Int8Latency:
    """What an int8 file takes on ONNX Runtime beside the float file that it was made of, both timed in turns.

    Attributes:
        runtime: With its version.
        threads: Of each session.
        batch: Images at a time.
        int8: Of a batch.
        float32: Likewise.
        ratio: int8's time as a multiple of float's in the same round: lower quartile, median, upper quartile.
        left: Operators that the int8 file has calculated in float between two conversions: kind to number.
        products: Whether this processor has instructions for products of int8; None: not known.
    """

    runtime: str
    threads: int
    batch: int
    int8: Latency
    float32: Latency
    ratio: tuple[float, float, float]
    left: Mapping[str, int]
    products: bool | None

    @property
    def verdict(self) -> str:
        """Whether int8 is "slower" or "faster" in three quarters of the rounds, or else "alike"."""
        return "slower" if self.ratio[0] > 1 else "faster" if self.ratio[2] < 1 else "alike"

    @property
    def reason(self) -> str:
        """What is likely to keep int8 from being faster."""
        if self.products is False:
            return "this processor has no instructions for products of int8 (VNNI, or dot products on ARM)"
        if self.left:
            which = ", ".join(f"{count} {kind}" for kind, count in self.left.items())
            return f"ONNX Runtime converts to float and back for {which}"
        return "all its layers are calculated in int8, but are too small to gain more than the conversions cost"

    def __str__(self) -> str:
        low, median, high = self.ratio
        return (
            f"int8 {self.int8.median:.3g} ms, float {self.float32.median:.3g} ms: {median:.2f} times as long (half of "
            f"{self.int8.repeats} rounds: {low:.2f} to {high:.2f}), batch {self.batch}, {self.runtime} on "
            f"{self.threads} thread{'s' * (self.threads > 1)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Milliseconds are medians; `reason` is None where int8 is faster."""
        return {
            "runtime": self.runtime,
            "threads": self.threads,
            "batch": self.batch,
            "rounds": self.int8.repeats,
            "int8_ms": self.int8.median,
            "float_ms": self.float32.median,
            "ratio": list(self.ratio),
            "verdict": self.verdict,
            "reason": None if self.verdict == "faster" else self.reason,
        }


def time_int8(source: Path, target: Path, images: torch.Tensor, *, threads: int = 1, repeats: int = 20) -> Int8Latency:
    """Times a float file and the int8 file that `quantize_onnx` made of it against each other on ONNX Runtime.

    Args:
        source: The float file.
        target: The int8 file.
        images: One batch, [N, C, H, W].
        threads: Of each session.
        repeats: Rounds; in each the better of two passes counts.

    Raises:
        RuntimeFailedError: ONNX Runtime is not installed.
    """
    times = time_files([target, source], images, threads=threads, repeats=repeats)
    int8, float32 = sum_up(times)
    low, median, high = np.quantile(times[:, 0] / times[:, 1], (0.25, 0.5, 0.75)).tolist()
    flags = read_processor("flags", "Features").split()
    return Int8Latency(
        runtime=f"ONNX Runtime {load_package('onnxruntime', 'onnxruntime', 'onnx').__version__}",
        threads=threads,
        batch=len(images),
        int8=int8,
        float32=float32,
        ratio=(low, median, high),
        left=_left_in_float(target),
        products=not _PRODUCTS.isdisjoint(flags) if flags else None,
    )


def _left_in_float(target: Path) -> dict[str, int]:
    """What reads a number that was converted to float, in the network as ONNX Runtime runs it on this processor."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimized.onnx"
        open_onnx(target, optimized=written)
        nodes = load_package("onnx", "onnx", "onnx").load(str(written)).graph.node
    floats = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    return dict(Counter(node.op_type for node in nodes if not floats.isdisjoint(node.input)))
