"""Images decoded and augmented a second, against those that a training step consumes.

    python benchmarks/data.py [--images 320] [--steps 2] [--out FILE]

The images are drawn with a seed: JPEGs of ImageNet's typical size (500 x 375 pixels, about 110 kB), and 32 x 32 pixels
as CIFAR-10's, in memory. Each row is one epoch of the training's own loader, which nobody keeps waiting. The step is
the supernet's, four passes, of the network that the recipe searches: batches of 128 for `cifar10`, of 16 for ImageNet.
Everything runs in one thread a process. `processor` are the seconds of all processes together: where other work runs
on the machine, images per processor second say what a free core does.
"""

import argparse
import io
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from autoslim._process import set_process

set_process()  # before the first operator runs, as the command line does

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from autoslim import Supernet  # noqa: E402
from autoslim.data import Data, Mix, Split, load_data, make_loader  # noqa: E402
from autoslim.pipeline._networks import Networks  # noqa: E402
from autoslim.recipes import RECIPES  # noqa: E402
from autoslim.tasks import TASKS  # noqa: E402
from autoslim.train import sandwich_step  # noqa: E402

WORKERS = (0, 1, 2)
IMAGENET = ("imagenet-mobilenet-v2", "imagenet-resnet50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=320, help="JPEGs; a fifth of them is set aside as test")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each network")
    parser.add_argument("--networks", nargs="*", default=["cifar10", *IMAGENET], help="recipes whose step is timed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "command": "python benchmarks/data.py " + " ".join(sys.argv[1:]).split("--out")[0].strip(),
        "machine": f"{platform.machine()}, 1 thread a process, torch {torch.__version__}",
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),  # of other work on the machine
        "imagenet": measure_jpegs(args.images),
        "cifar10": measure_small(30 * args.images),
        "steps": [measure_step(name, args.steps) for name in args.networks],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def measure_jpegs(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = make_jpegs(Path(folder), count)
        data = load_data(f"folder:{folder}", input_shape=(3, 224, 224), whole=True)
        rows = [
            measure(data, augment, workers, 32, **more)
            for augment, more in (
                ("none", {}),
                ("imagenet", {}),
                ("mobile", {}),
                ("randaugment", {"mix": Mix(0.2, 1.0, 2), "erase": 0.25}),
            )
            for workers in WORKERS
        ]
        return {"jpeg": {"pixels": "500x375", "mean_bytes": mean_bytes}, "rows": rows}


def measure_small(count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
    split = Split(images, torch.arange(count) % 10)
    data = Data("drawn", split, split, tuple("0123456789"), (0.5,) * 3, (0.25,) * 3, "none", ())
    rows = [measure(data, "crop+flip", 0, 128)]
    return rows + [measure(data, "randaugment", workers, 128) for workers in WORKERS]


def make_jpegs(folder: Path, count: int) -> int:
    """Writes `count` JPEGs of two classes, smooth shapes with some noise; returns their mean size in bytes."""
    draw, sizes = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = np.clip(pixels + draw.normal(0, 22, pixels.shape).astype(np.int16), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(buffer.getvalue())
        sizes.append(len(buffer.getvalue()))
    return round(sum(sizes) / count)


def measure(data: Data, augment: Any, workers: int, batch: int, **more: Any) -> dict[str, Any]:
    """One epoch, after a batch that warms up."""
    loader = make_loader(data.train, batch, data.mean, data.std, augment, shuffle=True, workers=workers, **more)
    next(iter(loader.epoch(1, len(loader) - 1)))
    started, used = time.perf_counter(), processor_seconds()
    images = sum(len(y) for _, y in loader.epoch(0))
    seconds, processor = time.perf_counter() - started, processor_seconds() - used
    extra = " + mixup, cutmix, erasing" if more else ""
    told = {"augment": augment + extra, "in_memory": isinstance(data.train, Split), "workers": workers}
    return {**told, **rates(images, seconds, processor)}


def measure_step(recipe: str, steps: int) -> dict[str, Any]:
    """The training step of a recipe's supernet, after one that warms up."""
    config = RECIPES[recipe]()
    size, classes, batch = (32, 10, 128) if recipe == "cifar10" else (224, 1000, 16)
    networks = Networks(config, TASKS["classification"], num_classes=classes, input_shape=(3, size, size))
    net = Supernet(networks.model.train(), networks.graph)
    x = torch.zeros(batch, 3, size, size).to(memory_format=torch.channels_last)
    y = torch.zeros(batch, dtype=torch.int64)
    started = used = 0.0
    for number in range(steps + 1):
        if number == 1:
            started, used = time.perf_counter(), processor_seconds()
        sandwich_step(net, (x, y), task=TASKS["classification"], seed=number)
    seconds, processor = time.perf_counter() - started, processor_seconds() - used
    told = {"recipe": recipe, "model": config.model, "widen": config.widen, "pixels": size, "batch": batch}
    return {**told, **rates(steps * batch, seconds, processor)}


def processor_seconds() -> float:
    """Of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def rates(images: int, seconds: float, processor: float) -> dict[str, Any]:
    rate = {"images_per_second": round(images / seconds, 1), "per_processor_second": round(images / processor, 1)}
    return {"images": images, "seconds": round(seconds, 2), "processor": round(processor, 2), **rate}


if __name__ == "__main__":
    main()
