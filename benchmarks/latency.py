"""Latency predicted against measured, for sub-networks that the prediction has not seen.

    python benchmarks/latency.py [--networks mobilenet_v2,resnet18] [--runtimes onnxruntime,torch] [--samples 40]
        [--table N] [--size 224] [--json] [--out FILE]

For each runtime and network (torchvision's, untrained: weights don't matter) the table is built as a run builds it.
Then `--samples` others are drawn, stratified over 10-100% of the MACs, and measured twice, the second time after all
have had their first. `median_error`, `p95_error`, `spearman` and `kendall` are of the prediction against the mean of
the two; `ceiling` is the same of the second measurement against the first, and what no prediction can beat. Times are
told relative to one network that is measured in every round: see `noise` for the rounds' spread and `drift` for how
much that network's own time changed between first and last.
"""

import argparse
import json
import os
import platform
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from autoslim import make_cost, trace_channels
from autoslim.costs.latency import draw_widths, make_latency
from autoslim.models import build_model

GOALS = {"median_error": 0.05, "p95_error": 0.12, "spearman": 0.98, "kendall": 0.90}
_PACKAGES = ("autoslim", "torch", "torchvision", "onnxruntime", "onnx", "numpy", "scipy")
_SEED = 1  # the table's own sub-networks are drawn with 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mobilenet_v2,resnet18")
    parser.add_argument("--runtimes", default="onnxruntime,torch")
    parser.add_argument("--samples", type=int, default=40, help="held-out sub-networks")
    parser.add_argument("--table", type=int, help="sub-networks to predict from; default as in a run")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    runtimes: dict[str, dict[str, Any]] = {}
    for runtime in args.runtimes.split(","):
        for network in args.networks.split(","):
            found = measure(network, runtime, samples=args.samples, table=args.table, size=args.size)
            runtimes.setdefault(runtime, {})[network] = found
    options = f"--networks {args.networks} --runtimes {args.runtimes} --samples {args.samples}"
    options += f" --table {args.table}" * (args.table is not None) + f" --size {args.size}" * (args.size != 224)
    versions = {package: metadata.version(package) for package in _PACKAGES}
    header = {
        "command": f"python benchmarks/latency.py {options}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread used, Python {platform.python_version()}",
        "versions": versions,
        "goals": GOALS,
    }
    result = json.dumps({**header, "runtimes": runtimes}, indent=1)
    if args.out:
        args.out.write_text(result + "\n")
    print(result if args.json else to_table(runtimes))


def measure(network: str, runtime: str, *, samples: int, table: int | None, size: int) -> dict[str, Any]:
    """One network on one runtime: build the table, measure others twice, compare."""
    torch.manual_seed(0)
    model, x = build_model(f"torchvision:{network}").eval(), torch.randn(1, 3, size, size)
    graph = trace_channels(model, x)
    started = time.perf_counter()
    cost = make_latency(model, graph, x, runtime=runtime, samples=table)
    cost.fit  # noqa: B018 - part of the building
    build_seconds = time.perf_counter() - started
    widths = draw_widths(graph, samples, seed=_SEED, lowest=0.1)
    rows = [cost.meter.measure(widths) for _ in range(2)]
    first, second = (np.array([row.ratio for row in each]) * cost.anchor for each in rows)
    measured, predicted, macs = (first + second) / 2, cost.many(widths), make_cost("macs", graph).many(widths)
    anchors = [row.anchor for row in (*cost.rows, *rows[0], *rows[1])]
    return {
        **compare(predicted, measured),
        "ceiling": compare(second, first),
        "macs": {name: compare(macs, measured)[name] for name in ("spearman", "kendall")},
        "build_seconds": round(build_seconds, 1),
        "table": len(cost.rows),
        "left_out_error": round(cost.error, 4),
        "noise": round(cost.noise, 4),
        "drift": round(max(anchors) / min(anchors) - 1, 3),
        "anchor_ms": round(cost.anchor, 3),
        "rows": [
            {
                "macs": int(macs[i]),
                "predicted_ms": round(float(predicted[i]), 3),
                "measured_ms": [round(float(first[i]), 3), round(float(second[i]), 3)],
                "widths": [widths[i][group.name] for group in graph.groups],
            }
            for i in range(samples)
        ],
    }


def compare(ours: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    missed = np.abs(ours / truth - 1)
    values = {
        "median_error": np.median(missed),
        "p95_error": np.quantile(missed, 0.95),
        "spearman": spearmanr(ours, truth).statistic,
        "kendall": kendalltau(ours, truth).statistic,
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def to_table(runtimes: dict[str, dict[str, Any]]) -> str:
    lines: list[str] = []
    for runtime, networks in runtimes.items():
        for network, found in networks.items():
            ours, best = (" ".join(f"{name} {of[name]:.3f}" for name in GOALS) for of in (found, found["ceiling"]))
            lines.append(f"{runtime:12} {network:14} {ours}, built in {found['build_seconds']:.0f} s, ceiling: {best}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
