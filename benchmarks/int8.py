"""What int8 saves on ONNX Runtime: float and int8 file of each network, timed in turns, one image on one thread.

    python benchmarks/int8.py [--only torchvision:resnet18 ...] [--size 224] [--rounds 20] [--out FILE]

Weights and images are random: they decide the accuracy, which `autoslim export --int8` measures, and not the time.
"""

import argparse
import json
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from autoslim.export import export_network, quantize_onnx, time_int8
from autoslim.models import build_model
from autoslim.runtimes import describe_machine

MODELS = tuple(
    f"torchvision:{name}"
    for name in ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x1_0", "efficientnet_b0")
)
CALIBRATION = 4  # images
_PACKAGES = ("autoslim", "torch", "torchvision", "onnx", "onnxruntime")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    networks: dict[str, Any] = {}
    for name in args.only:
        networks[name], told = measure(name, args.size, args.rounds)
        print(f"{name}: {told}")
    header = {
        "command": f"python benchmarks/int8.py --only {' '.join(args.only)} --size {args.size} --rounds {args.rounds}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{describe_machine()}, Python {platform.python_version()}",
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
    if args.out:
        args.out.write_text(json.dumps({**header, "networks": networks}, indent=1) + "\n")


def measure(name: str, size: int, rounds: int) -> tuple[dict[str, Any], str]:
    """Both files of a network, their sizes and times; and the times in words."""
    torch.manual_seed(0)
    images = torch.randn(CALIBRATION, 3, size, size)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "network.onnx", Path(folder) / "network.int8.onnx"
        export_network(build_model(name).eval(), images, source, to="onnx")
        quantize_onnx(source, target, images.split(1))
        told = time_int8(source, target, images[:1], repeats=rounds)
        sizes = {"int8_bytes": target.stat().st_size, "float_bytes": source.stat().st_size}
    return {**told.to_json(), **sizes, "left_in_float": dict(told.left)}, str(told)


if __name__ == "__main__":
    main()
