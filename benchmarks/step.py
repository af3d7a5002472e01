"""The price of a sandwich step: its time over that of the same four sub-networks as extracted modules, and its memory.

    python benchmarks/step.py [--model torchvision:mobilenet_v2] [--size 64] [--batch 64] [--repeats 5] [--json]

Both sides do forward and backward passes only, on the same images and the same widths, interleaved; the optimizer's
step is timed apart. Kernels for the shapes are compiled in a first, unmeasured round. Peak memory is that of all
tensors that a step allocates (gradients included, weights not), as torch's profiler tells of each, against one step of
the widest network alone.
"""

import argparse
import itertools
import json
import platform
import statistics
import time

from autoslim._process import set_process

set_process()  # before the first operator runs, as the command line does

import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from autoslim import Supernet, extract_network, trace_channels  # noqa: E402
from autoslim.models import build_model  # noqa: E402
from autoslim.tasks import TASKS  # noqa: E402
from autoslim.train import parameter_groups, sandwich_step  # noqa: E402

TASK = TASKS["classification"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:mobilenet_v2")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds for each of the draws")
    parser.add_argument("--draws", type=int, default=4, help="different pairs of random widths")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.model, args.size, args.batch, args.repeats, args.draws)
    print(
        json.dumps(result, indent=1) if args.json else "\n".join(f"{key:24} {value}" for key, value in result.items())
    )


def measure(model: str, size: int, batch: int, repeats: int, draws: int) -> dict:
    torch.manual_seed(0)
    full = build_model(model).to(memory_format=torch.channels_last).train()
    graph = trace_channels(full, torch.zeros(1, 3, size, size))
    net = Supernet(full, graph)
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (batch,))
    optimizer = torch.optim.SGD(parameter_groups(full, 1e-4), lr=1e-6, momentum=0.9, nesterov=True)
    times: dict[str, list[float]] = {"sandwich": [], "plain": [], "optimizer": []}
    ratios = []
    for seed in range(draws):
        widths = [graph.max_widths(), graph.min_widths(), *(graph.random_widths(seed * 64 + i) for i in range(2))]
        plain = [extract_network(full, graph, w).to(memory_format=torch.channels_last).train() for w in widths]
        for repeat in range(repeats + 1):
            optimizer.zero_grad(set_to_none=True)
            sandwich = timed(lambda seed=seed: sandwich_step(net, (x, y), task=TASK, seed=seed))
            step = timed(optimizer.step)
            alone = timed(lambda plain=plain: [passes(module, x, y) for module in plain])
            if repeat:
                for name, seconds in (("sandwich", sandwich), ("plain", alone), ("optimizer", step)):
                    times[name].append(seconds)
                ratios.append(sandwich / alone)
    optimizer.zero_grad(set_to_none=True)
    widest = peak_megabytes(lambda: passes(full, x, y))
    optimizer.zero_grad(set_to_none=True)
    four = peak_megabytes(lambda: sandwich_step(net, (x, y), task=TASK, seed=0))
    return {
        "command": f"python benchmarks/step.py --model {model} --size {size} --batch {batch} --repeats {repeats}",
        "ratio": round(statistics.median(ratios), 4),
        "ratio_min_max": [round(min(ratios), 4), round(max(ratios), 4)],
        **{f"{name}_seconds": round(statistics.median(values), 4) for name, values in times.items()},
        "rounds": len(ratios),
        "peak_megabytes": {"sandwich": round(four, 1), "widest_alone": round(widest, 1)},
        "peak_ratio": round(four / widest, 4),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def passes(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    for parameter in module.parameters():
        parameter.grad = None
    TASK.loss(module(x), y).backward()


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_megabytes(work) -> float:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    changes = [each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    changes.sort(key=lambda each: each.start_ns())
    return max(itertools.accumulate(each.nbytes() for each in changes)) / 1e6


if __name__ == "__main__":
    main()
