"""`autoslim export`: a trained network as a file for another runtime, held against the module before it counts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from autoslim._console import make_console
from autoslim.cli._deploy import Images, find_folder, find_images
from autoslim.errors import ConfigError
from autoslim.export import (
    FORMATS,
    Exported,
    Int8Latency,
    Options,
    ServedNetwork,
    export_network,
    quantize_onnx,
    time_int8,
)
from autoslim.run_folder import read_json
from autoslim.runtimes import name_outputs
from autoslim.saved import load
from autoslim.score import evaluate

_COMPARED, _CALIBRATION, _AT_ONCE = 64, 512, 32  # images
_SLOW = {
    "slower": "int8 is slower here: the float file is the better choice on this processor",
    "alike": "int8 is not faster here",
}


@dataclass(frozen=True, kw_only=True)
class ExportArgs(Options):
    """What `autoslim export` takes."""

    place: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Folder of a run, or of one model."""
    to: str = "onnx"
    """Format: onnx, openvino, torch-export, state-dict or python."""
    network: str = ""
    """Of a run with several: a folder below its models/, e.g. macs-50 or macs-50/uniform."""
    out: str = ""
    """The file; beside the model's own unless given."""
    int8: bool = False
    """Also write an int8 file (ONNX, static quantisation), and measure accuracy and latency of both."""
    images: str = ""
    """Images to compare on: a run's folder, digits, folder:PATH, hf:NAME or path/to/file.py:factory; the run's search
    images unless given."""
    random: bool = False
    """Compare on random images: for where there are no real ones."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        FORMATS[self.to]  # refuses another one  # pyright: ignore[reportUnusedExpression]
        if self.int8 and (self.to != "onnx" or self.random):
            other = f"--to {self.to}" if self.to != "onnx" else "--random"
            raise ConfigError(
                f"autoslim export: --int8 together with {other}; expected an ONNX file and real images, whose ranges "
                "it is made from. Drop one of them."
            )


def export_command(args: list[str]) -> int:
    """Exports a network and tells how far it is off; returns the exit code."""
    about = "Writes a trained network for another runtime, loads it back there and compares it with the module."
    given = tyro.cli(ExportArgs, args=args, prog="autoslim export", description=about)
    folder = find_folder(given.place, given.network)
    config = read_json(folder / "config.json", kind="SavedNetwork", version=2)
    images = find_images(folder, config, given=given.images, random=given.random)
    path = Path(given.out) if given.out else folder / f"network{FORMATS[given.to].suffix}"
    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    compared = images.take(max(_COMPARED, 0 if options.batch == "dynamic" else options.batch))
    model = load(folder)
    network = images.task.adapt(model)
    if given.int8 and network is not model:
        raise ConfigError(
            f"autoslim export: --int8 of a network for {images.task.name}, whose file gives what its heads say; "
            "expected one whose outputs can be judged as they are. Leave --int8 out."
        )
    told = export_network(network, compared, path, to=given.to, options=options)
    int8, latency = _quantize(folder, told, images) if given.int8 else (None, None)
    with torch.no_grad():
        outputs = list(name_outputs(network(compared[: 1 if told.batch == "dynamic" else told.batch])))
    prepare = {name: config[name] for name in ("input", "resize", "normalisation", "classes")} | {"outputs": outputs}
    console = make_console(soft_wrap=True)
    if given.json:
        console.print(json.dumps({**told.to_json(), "compared_on": images.told, "int8": int8, "prepare": prepare}))
    else:
        _show(console, told, images, folding=options.fold_bn)
        if int8 is not None and latency is not None:
            _show_int8(console, images, int8, latency)
        console.print(f"{'to prepare':<13}{_say_prepare(prepare)}")
    return 0


def _quantize(folder: Path, told: Exported, images: Images) -> tuple[dict[str, Any], Int8Latency]:
    """The int8 file beside the float one, what both are worth on the test images, and how long they take."""
    source = told.files[0]
    size = _AT_ONCE if told.batch == "dynamic" else told.batch
    target, chosen = source.with_suffix(".int8.onnx"), images.take(max(_CALIBRATION, size))
    parts = [part.contiguous() for part in chosen.split(size)]
    quantize_onnx(source, target, [part for part in parts if told.batch == "dynamic" or len(part) == size])
    tests, metric = images.tests(), images.task.metric
    scores = {
        name: evaluate(ServedNetwork(FORMATS["onnx"].open(path, load(folder)), told.batch), tests, images.task).score
        for name, path in (("float", source), ("int8", target))
    }
    latency = time_int8(source, target, chosen[: 1 if told.batch == "dynamic" else told.batch])
    facts = {
        "path": str(target),
        "bytes": target.stat().st_size,
        "calibration_images": len(chosen),
        "test_images": len(images.test or ()),
        f"test_{metric.key}": metric.turn(scores["int8"].accuracy),
        f"float_test_{metric.key}": metric.turn(scores["float"].accuracy),
        "latency": latency.to_json(),
    }
    return facts, latency


def _show(console: Console, told: Exported, images: Images, *, folding: bool) -> None:
    facts = [f"{path} ({_size(path.stat().st_size)})" for path in told.files]
    facts += [f"opset {told.opset}"] if told.opset is not None else []
    facts += ["any batch" if told.batch == "dynamic" else f"batch {told.batch}"]
    facts += [f"{told.folded} BatchNorms folded"] if folding else []
    console.print(f"{told.format:<13}{', '.join(facts)}")
    console.print(
        f"{'compared':<13}on {told.images} {images.told}: differs by at most {told.max_difference:.2g} from the "
        f"module, whose outputs reach {told.largest_output:.3g} (allowed: {told.tolerance:g} of that)"
    )


def _show_int8(console: Console, images: Images, int8: Mapping[str, Any], latency: Int8Latency) -> None:
    metric, key = images.task.metric, f"test_{images.task.metric.key}"
    console.print(
        f"{'int8':<13}{int8['path']} ({_size(int8['bytes'])}), ranges from {int8['calibration_images']} "
        f"{images.told}: {metric.tell(metric.turn(int8[key]))} on {int8['test_images']} test images, float "
        f"{metric.tell(metric.turn(int8['float_' + key]))}"
    )
    console.print(f"{'latency':<13}{latency}")
    if latency.verdict in _SLOW:
        console.print(f"{'':<13}{_SLOW[latency.verdict]}. Likely reason: {latency.reason}.")


def _say_prepare(prepare: Mapping[str, Any]) -> str:
    mean, std = (", ".join(f"{value:.6g}" for value in prepare["normalisation"][name]) for name in ("mean", "std"))
    shape = ", ".join(str(side) for side in prepare["input"][1:])
    return f"an image: [{shape}], resize {prepare['resize']}, values 0 to 1, less {mean}, divided by {std}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} kB"
