"""Milliseconds per training step on a GPU: plain steps as they are and recorded, and the supernet's.

    python benchmarks/gpu.py [--model zoo:mobilenet_v2_32] [--batch 512] [--precision bf16-mixed]
        [--layout channels-last | contiguous] [--seconds 3]

Random images of 32x32. The first steps of each kind are told one by one: libraries load
kernels and choose among them for every shape that they have not seen, and each step of a supernet brings new ones.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from autoslim._process import set_process

set_process()  # before the first operator runs, as the command line does

import torch  # noqa: E402

from autoslim import Supernet, trace_channels  # noqa: E402
from autoslim.models import build_model  # noqa: E402
from autoslim.pipeline._launch import make_fabric  # noqa: E402
from autoslim.tasks import TASKS  # noqa: E402
from autoslim.train import parameter_groups, sandwich_step  # noqa: E402
from autoslim.train._recorded import Recorded  # noqa: E402

TASK = TASKS["classification"]
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
TOLD = (1, 2, 3, 5, 10, 20, 40, 80, 160)  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:mobilenet_v2_32")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--layout", choices=LAYOUTS, default="channels-last")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each kind, three steps at least")
    args = parser.parse_args()
    print(json.dumps(measure(args.model, args.batch, args.precision, args.layout, args.seconds), indent=1))


def measure(name: str, batch: int, precision: str, layout: str, seconds: float) -> dict:
    torch.manual_seed(0)
    runtime = make_fabric(precision)
    device = runtime.device
    model = build_model(name, num_classes=10)
    graph = trace_channels(model, torch.zeros(1, 3, 32, 32))
    net = Supernet(model, graph).to(device, memory_format=LAYOUTS[layout]).train()  # pyright: ignore
    x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=LAYOUTS[layout])
    y = torch.randint(0, 10, (batch,), device=device)
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.01, momentum=0.9, nesterov=True)

    def passes(batch, share: float) -> torch.Tensor:
        with runtime.autocast():
            loss = TASK.loss(model(batch[0]), batch[1]) * share
        runtime.backward(loss)
        return loss.detach().reshape(1)

    kinds: dict[str, Callable[[int], torch.Tensor]] = {"plain": lambda number: passes((x, y), 1.0)}
    if device.type == "cuda":
        recorded = Recorded(model, passes)
        kinds["recorded"] = lambda number: recorded((x, y), 1.0)
    kinds["supernet"] = lambda number: sandwich_step(net, (x, y), task=TASK, seed=number, runtime=runtime)
    rows = []
    for kind, step in kinds.items():
        took: list[float] = []
        started = time.perf_counter()
        while time.perf_counter() - started < seconds or len(took) < 3:
            began = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            losses = step(len(took))
            optimizer.step()
            losses.tolist()  # waits, as a training does
            took.append(1e3 * (time.perf_counter() - began))
        rows.append(
            {
                "kind": kind, "model": name, "batch": batch, "precision": precision, "layout": layout,
                "steps": len(took),
                "milliseconds": round(statistics.median(took[len(took) // 2 :]), 2),
                "at_steps": {at: round(took[at - 1]) for at in TOLD if at <= len(took)},
            }
        )  # fmt: skip
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    return {"machine": f"{machine}, torch {torch.__version__}", "rows": rows}


if __name__ == "__main__":
    main()
