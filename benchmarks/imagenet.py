"""What a full ImageNet run of each recipe computes, stage by stage, by this library's cost model: nothing is trained.

    python benchmarks/imagenet.py [--recipes imagenet-mobilenet-v2,...] [--out FILE] [--json]

In image-MACs, the multiply-accumulates of one image through one network, forward; a training pass counts three. Divide
by what a device does in a second (MACs, not FLOPs) for its hours. Greedy's evaluations are counted on a made-up loss.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from autoslim import make_cost
from autoslim.pipeline._networks import Networks
from autoslim.recipes import RECIPES
from autoslim.search import Space, Step
from autoslim.search._surrogate import Surrogate
from autoslim.tasks import TASKS

IMAGES, HELD_OUT, CALIBRATION, TRAINING = 1_281_167, 50_000, 1024, 3
DRAWS = 50  # random sub-networks, for the mean MACs of a sandwich step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(name for name in RECIPES if name.startswith("imagenet")))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: measure(name) for name in args.recipes.split(",")}
    result = {"command": f"python benchmarks/imagenet.py --recipes {args.recipes}", "unit": "1e15 image-MACs", **rows}
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else "\n".join(f"{name:24} {row}" for name, row in rows.items()))


def measure(name: str) -> dict[str, Any]:
    config = RECIPES[name]()
    networks = Networks(config, TASKS["classification"], num_classes=1000, input_shape=(3, 224, 224))
    graph, cost = networks.graph, make_cost("macs", networks.graph)
    drawn = statistics.mean(cost(graph.random_widths(seed)) for seed in range(DRAWS))
    sandwich = cost(graph.max_widths()) + cost(graph.min_widths()) + config.train.random_subnets * drawn
    supernet = config.train.epochs_supernet * (IMAGES - HELD_OUT) * TRAINING * sandwich
    space = Space.of(graph.groups)
    surrogate, steps = Surrogate(space.widest), list[Step]()
    base = {"macs": cost(networks.own)}
    found = config.search.search(space, {"macs": cost}, config.budgets, surrogate, base=base, on_step=steps.append)
    along = statistics.mean(step.costs["macs"] for step in steps)
    search = surrogate.asked * (HELD_OUT + CALIBRATION) * along
    trained = [base["macs"], *(each.costs["macs"] for each in found for _ in ("found", "uniform"))]
    retrain = config.train.epochs_retrain * IMAGES * TRAINING * sum(trained)
    stages = {"supernet": supernet, "search": search, "retrain": retrain}
    return {stage: round(value / 1e15, 1) for stage, value in stages.items()} | {
        "evaluations": surrogate.asked, "steps": len(steps), "networks_retrained": len(trained),
        "gradient_megabytes": round(4e-6 * sum(p.numel() for p in networks.model.parameters()), 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
