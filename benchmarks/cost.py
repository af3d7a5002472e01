"""The price of a price: configurations whose MACs are known per second, on one core.

    python benchmarks/cost.py [--only torchvision:resnet50 ...] [--configurations 20] [--size 224] [--json] [--out FILE]

Ours are the closed forms of `costs/`: one at a time, in batches of 4096 `Widths`, and in batches of an integer array.
The counters have to run the network, so that each configuration is extracted first: torch's `FlopCounterMode` on real
tensors and on meta tensors (shapes without data), and fvcore's `FlopCountAnalysis` where it is installed. All values
must be equal. fvcore also counts batch norm and pooling; only its convolutions and matrix products are compared.
Seconds are of the processor's time, so that other work on the machine counts less.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded

import numpy as np
import torch
from torch import nn

from autoslim import Widths, extract_network, trace_channels
from autoslim.costs import make_cost
from autoslim.graph import ChannelGraph
from autoslim.models import build_model
from autoslim.testing.networks import counted_macs

MODELS = ("torchvision:mobilenet_v2", "torchvision:resnet50")
BATCH, REPEATS = 4096, 5
FVCORE_PRODUCTS = ("conv", "linear", "addmm", "matmul", "bmm", "einsum")
_PACKAGES = ("autoslim", "torch", "torchvision", "fvcore", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL", default=MODELS)
    parser.add_argument("--configurations", type=int, default=20, help="random widths that the counters count")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    networks = {model: measure(model, args.size, args.configurations) for model in args.only}
    options = f"--only {' '.join(args.only)} --configurations {args.configurations} --size {args.size}"
    header = {
        "command": f"python benchmarks/cost.py {options}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread used, Python {platform.python_version()}",
        "versions": {package: metadata.version(package) for package in _PACKAGES if util.find_spec(package)},
    }
    result = json.dumps({**header, "networks": networks}, indent=1)
    if args.out:
        args.out.write_text(result + "\n")
    print(result if args.json else "\n".join(f"{m}\n{to_table(values)}" for m, values in networks.items()))


def to_table(values: dict[str, Any]) -> str:
    return "\n".join(f"  {key:44} {value}" for key, value in values.items())


def measure(name: str, size: int, configurations: int) -> dict[str, Any]:
    """Configurations per second of each way to count, and whether all of them agree."""
    torch.manual_seed(0)
    model = build_model(name).eval()
    x = torch.zeros(1, 3, size, size)
    graph = trace_channels(model, x)
    ours, seconds = price(graph, configurations)
    meta = copy.deepcopy(model).to("meta")
    counters: dict[str, Callable[[Widths], int]] = {
        "torch_counter": lambda widths: counted_macs(extract_network(model, graph, widths), (x,)),
        "torch_counter_meta": lambda widths: counted_macs(extract_network(meta, graph, widths), (x.to("meta"),)),
    }
    if util.find_spec("fvcore"):
        counters["fvcore"] = lambda widths: count_fvcore(extract_network(model, graph, widths), x)
    draws = [graph.random_widths(seed) for seed in range(configurations)]
    equal: dict[str, bool] = {}
    for counter, count in counters.items():
        count(draws[0])  # unmeasured: what is loaded at the first use
        counted, each = [], []
        for widths in draws:
            macs, spent = timed(lambda count=count, widths=widths: count(widths))
            counted.append(macs)
            each.append(spent)
        seconds[counter] = statistics.median(each)
        equal[counter] = counted == ours
    extracting = statistics.median(timed(lambda w=w: extract_network(model, graph, w))[1] for w in draws)
    forward = statistics.median(timed(lambda: run(model, x))[1] for _ in range(REPEATS))
    return {
        "configurations_compared": configurations,
        **{f"equal_to_{counter}": same for counter, same in equal.items()},
        **{f"{way}_per_second": round(1 / spent, 2) for way, spent in seconds.items()},
        "extraction_seconds_in_each_count": round(extracting, 5),
        **{f"{way}_in_forward_passes": round(spent / forward, 6) for way, spent in seconds.items()},
        "forward_seconds": round(forward, 5),
    }


def price(graph: ChannelGraph, configurations: int) -> tuple[list[float], dict[str, float]]:
    """The MACs of the first configurations by our closed form, and seconds for one, of each way to ask.

    One at a time and in batches must give the same; if they don't, the benchmark stops.
    """
    cost = make_cost("macs", graph)
    draws = [graph.random_widths(seed) for seed in range(BATCH)]
    array = np.array([[widths[group.name] for group in graph.groups] for widths in draws])
    single, one = timed(lambda: [cost(widths) for widths in draws[:512]])
    seconds = {
        "ours_one_at_a_time": one / 512,
        "ours_many_widths": repeated(lambda: cost.many(draws)) / BATCH,
        "ours_many_array": repeated(lambda: cost.many(array)) / BATCH,
    }
    if not np.array_equal(cost.many(array), cost.many(draws)) or cost.many(draws)[:512].tolist() != single:
        raise AssertionError("cost(widths), cost.many(list) and cost.many(array) differ")
    return [cost(widths) for widths in draws[:configurations]], seconds


def count_fvcore(model: nn.Module, x: torch.Tensor) -> int:
    """fvcore's convolutions and matrix products."""
    from fvcore.nn import FlopCountAnalysis

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return int(sum(analysis.by_operator()[kind] for kind in FVCORE_PRODUCTS))


def run(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        model(x)


def repeated(work: Callable[[], Any]) -> float:
    return statistics.median(timed(work)[1] for _ in range(REPEATS))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


if __name__ == "__main__":
    main()
