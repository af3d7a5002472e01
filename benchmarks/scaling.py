"""What sharing a run costs: two processes of one thread that work together, against two that work at once but apart.

    python benchmarks/scaling.py [--rounds 5] [--steps 6] [--size 64] [--batch 32] [--budget 95] [--json] [--out FILE]

Both sides keep both cores and the memory busy, so what is charged is the communication, and the waiting for each other.
`step`: a supernet step on `--batch` images each; together they are one step on twice as many, with the gradients
averaged. `search`: greedy slimming of an untrained network; together the processes share the images. Efficiency is the
time apart over the time together, for the search over twice that. Rounds of both are interleaved.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from autoslim._process import set_process

set_process()

import torch  # noqa: E402
from torch import distributed  # noqa: E402

from autoslim import Supernet, make_cost, trace_channels  # noqa: E402
from autoslim.budget import Budget  # noqa: E402
from autoslim.models import build_model  # noqa: E402
from autoslim.ranks import Ranks  # noqa: E402
from autoslim.score import SupernetScorer  # noqa: E402
from autoslim.search import Greedy, Space  # noqa: E402
from autoslim.tasks import TASKS  # noqa: E402
from autoslim.train import parameter_groups, sandwich_step  # noqa: E402
from supernet import MODEL  # noqa: E402

TASK = TASKS["classification"]
CHUNK, SEARCH, CALIBRATION = 250, 2000, 1000  # images
GOALS = {"step": 0.90, "search": 0.95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="supernet steps per round")
    parser.add_argument("--size", type=int, default=64, help="of the images of a step (torchvision's mobilenet_v2)")
    parser.add_argument("--batch", type=int, default=32, help="images per process and step")
    parser.add_argument("--budget", type=float, default=95, help="of the search, in percent of the MACs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        start(sys.argv[1:])
        return
    distributed.init_process_group("gloo")
    measured = {"step": compare_steps(args), "search": compare_searches(args)}
    named = ("rounds", "steps", "size", "batch", "budget")
    result: dict[str, Any] = {
        "command": "python benchmarks/scaling.py " + " ".join(f"--{name} {getattr(args, name)}" for name in named),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 2 processes of 1 thread, torch {torch.__version__}",
        "goals": GOALS,
        **measured,
    }
    text = json.dumps(result, indent=1)
    if Ranks.here().first:
        if args.out:
            args.out.write_text(text + "\n")
        print(text if args.json else "\n".join(f"{name:8} {each['efficiency']}" for name, each in measured.items()))
    distributed.destroy_process_group()


def start(arguments: list[str]) -> None:
    """Two processes of this script; what `torchrun --nproc-per-node=2` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, __file__, *arguments], env={**os.environ, **group, "RANK": str(rank)})
        for rank in range(2)
    ]
    sys.exit(max(process.wait() for process in both))


def compare_steps(args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model("torchvision:mobilenet_v2").to(memory_format=torch.channels_last).train()
    net = Supernet(model, trace_channels(model, torch.zeros(1, 3, args.size, args.size)))
    optimizer = torch.optim.SGD(parameter_groups(model, 1e-4), lr=1e-6, momentum=0.9)
    x = torch.randn(args.batch, 3, args.size, args.size).to(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (args.batch,))
    ranks = Ranks.here()

    def work(together: bool) -> None:
        for seed in range(args.steps):  # the same widths in each round: kernels are compiled in the first
            optimizer.zero_grad(set_to_none=True)
            sandwich_step(net, (x, y), task=TASK, seed=seed)
            if together:
                ranks.average_(p.grad for p in net.parameters() if p.grad is not None)
            optimizer.step()

    megabytes = sum(p.numel() * p.element_size() for p in net.parameters()) / 1e6
    return {**alternate(work, args.rounds, halves=1), "megabytes_per_step": round(megabytes, 2)}


def compare_searches(args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model(MODEL, num_classes=10).to(memory_format=torch.channels_last)
    graph = trace_channels(model, torch.zeros(1, 3, 32, 32))
    net, cost, ranks = Supernet(model, graph), make_cost("macs", graph), Ranks.here()
    images = torch.randn(SEARCH, 3, 32, 32).to(memory_format=torch.channels_last).split(CHUNK)
    search = list(zip(images, torch.randint(0, 10, (SEARCH,)).split(CHUNK), strict=True))
    calibration = images[: CALIBRATION // CHUNK]
    space = Space.of(graph.groups)
    budget, base = Budget.parse(f"macs<={args.budget}%"), {"macs": cost(graph.max_widths())}
    paths: dict[bool, Any] = {}

    def work(together: bool) -> None:
        own = slice(ranks.rank, None, ranks.size) if together else slice(None)
        with patch("autoslim.score.Ranks.here", return_value=ranks if together else Ranks()):
            scorer = SupernetScorer(net, TASK, calibration=calibration[own], search=search[own])
            steps: list[dict[str, Any]] = []
            take = lambda step: steps.append(step.to_json())  # noqa: E731
            Greedy().search(space, {"macs": cost}, [budget], scorer, base=base, on_step=take)
        paths[together] = steps

    told = alternate(work, args.rounds, halves=2)
    assert paths[True] == paths[False], "the path of two processes is another one"
    return {**told, "steps": len(paths[True])}


def alternate(work: Callable[[bool], None], rounds: int, *, halves: int) -> dict[str, Any]:
    """Seconds of both kinds of work, the slower process counting, and their ratio; the first round is a warm-up."""
    ranks, seconds = Ranks.here(), dict[bool, list[float]]({True: [], False: []})
    for number in range(rounds + 1):
        for together in (False, True):
            ranks.wait()
            started = time.perf_counter()
            work(together)
            taken = max(ranks.gather(time.perf_counter() - started))
            if number:
                seconds[together].append(taken)
    ratios = [apart / together / halves for apart, together in zip(seconds[False], seconds[True], strict=True)]
    return {
        "efficiency": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "seconds_apart": [round(each, 3) for each in seconds[False]],
        "seconds_together": [round(each, 3) for each in seconds[True]],
    }


if __name__ == "__main__":
    main()
