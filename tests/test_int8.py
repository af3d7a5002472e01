"""int8 files: whole networks in int8, timed beside the float file, and plain words where that does not pay."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoslim.cli import main
from autoslim.export import Int8Latency, quantize_onnx, time_int8
from autoslim.runtimes import Latency, export_onnx


class Residual(nn.Module):
    """Each activation is read twice: by a convolution, and by the sum after it."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.second, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)
        self.activation = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.stem(x))
        x = x + self.activation(self.first(x))
        x = x + self.activation(self.second(x))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def write_both(folder: Path, activation: type[nn.Module]) -> tuple[Path, Path, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16)
    source, target = folder / "net.onnx", folder / "net.int8.onnx"
    source.write_bytes(export_onnx(Residual(activation), images[:2], opset=18))
    quantize_onnx(source, target, images.split(2))
    return source, target, images[:2]


def test_no_layer_is_left_in_float_where_an_activation_is_read_twice(tmp_path: Path):
    source, target, images = write_both(tmp_path, nn.ReLU)
    told = time_int8(source, target, images, repeats=5)
    assert told.left == {}
    assert (told.batch, told.threads, told.int8.repeats, told.float32.repeats) == (2, 1, 5, 5)
    assert told.ratio[0] <= told.ratio[1] <= told.ratio[2]
    assert told.runtime.startswith("ONNX Runtime 1.")


def test_what_onnx_runtime_has_no_int8_for_is_named(tmp_path: Path):
    source, target, images = write_both(tmp_path, nn.Hardsigmoid)
    assert time_int8(source, target, images, repeats=3).left == {"HardSigmoid": 3}


def make_told(ratio: tuple[float, float, float], **changes) -> Int8Latency:
    fields = {
        "runtime": "ONNX Runtime 1.0", "threads": 1, "batch": 1, "int8": Latency(2.0 * ratio[1], 2.0, 3.0, 20),
        "float32": Latency(2.0, 1.9, 2.1, 20), "ratio": ratio, "left": {}, "products": True,
    }  # fmt: skip
    return Int8Latency(**{**fields, **changes})


def test_a_verdict_needs_three_quarters_of_the_rounds():
    ratios = {"slower": (1.01, 1.2, 1.3), "faster": (0.7, 0.8, 0.99), "alike": (0.9, 1.1, 1.2)}
    for verdict, ratio in ratios.items():
        told = make_told(ratio).to_json()
        assert told["verdict"] == verdict
        assert (told["reason"] is None) == (verdict == "faster")
    assert str(make_told((1.01, 1.2, 1.3))) == (
        "int8 2.4 ms, float 2 ms: 1.20 times as long (half of 20 rounds: 1.01 to 1.30), batch 1, ONNX Runtime 1.0 on 1 "
        "thread"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"products": False}, "this processor has no instructions for products of int8 (VNNI, or dot products on ARM)"),
        (
            {"left": {"HardSigmoid": 28, "Softmax": 1}},
            "ONNX Runtime converts to float and back for 28 HardSigmoid, 1 So",
        ),
        ({"products": None}, "all its layers are calculated in int8, but are too small to gain more than the conver"),
    ],
)
def test_the_reason_is_what_was_seen(changes, reason):
    assert make_told((1.1, 1.2, 1.3), **changes).reason.startswith(reason)


@pytest.mark.parametrize(
    ("ratio", "advice"),
    [
        (
            (1.1, 1.2, 1.3),
            "int8 is slower here: the float file is the better choice on this processor. Likely reason: ",
        ),
        ((0.9, 1.0, 1.1), "int8 is not faster here. Likely reason: "),
        ((0.5, 0.6, 0.7), None),
    ],
)
def test_a_file_that_is_not_faster_is_written_and_told_so(
    finished: Path, tmp_path: Path, capsys, monkeypatch, ratio, advice
):
    told = make_told(ratio)
    monkeypatch.setattr("autoslim.cli.export.time_int8", lambda source, target, images: told)
    out = tmp_path / "net.onnx"
    assert (
        main(["export", str(finished), "--network", "macs-60", "--out", str(out), "--int8", "--batch", "dynamic"]) == 0
    )
    assert (tmp_path / "net.int8.onnx").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == f"latency      {told}"
    assert lines[4:-1] == ([] if advice is None else [f"{'':<13}{advice}{told.reason}."])
