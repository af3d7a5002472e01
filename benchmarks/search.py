"""The search's speed and what it finds, against exhaustive greedy slimming on the same supernets.

    python benchmarks/search.py --data hf:FOLDER --work FOLDER [--seeds 0,1,2] [--epochs 5] --out FILE [--json]

Makes the supernets (`supernet.py`; kept in --work), then for each seed runs `Exhaustive()`, `Greedy()` and uniform, on
the first seed also `Greedy()` with each switch off and with other settings, and the other methods, down to the tightest
budget. Each found sub-network is tested on the test images with BatchNorm statistics of its own. Rows are appended to
--work as they come, so a run that was stopped goes on.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoslim._process import set_process

set_process()  # before the first operator runs, as the command line does

import torch  # noqa: E402

from autoslim.budget import Budget  # noqa: E402
from autoslim.costs import make_cost  # noqa: E402
from autoslim.score import SupernetScorer  # noqa: E402
from autoslim.search import Evolution, Exhaustive, Greedy, Knapsack, Method, Random, Sample, Space, Step, Uniform  # noqa: E402
from supernet import CALIBRATION, CHUNK, TASK, Trained, obtain_supernet  # noqa: E402

METHODS: dict[str, Method] = {"greedy": Greedy(), "uniform": Uniform(), "exhaustive": Exhaustive()}
OTHERS: dict[str, Method] = {
    "knapsack": Knapsack(),
    "random": Random(),
    "evolution": Evolution(population=16, generations=5),
}
SWITCHES: dict[str, Method] = {
    "no race": Greedy(race=False),
    "no memory": Greedy(memory=False),
    "no reuse": Greedy(reuse=False),
    "breadth 3": Greedy(breadth=3),
    "fading 0.97": Greedy(fading=0.97),
    "fading 1": Greedy(fading=1.0),
    "margin 0": Greedy(margin=0.0),
    "narrowed 1": Greedy(narrowed=1.0),
    "risk 0.2": Greedy(risk=0.2),
}


@dataclass
class Counted:
    """Counts the images that are asked for; those of BatchNorm statistics apart."""

    inner: SupernetScorer
    passes: int = 0
    images: int = 0
    macs: Callable[[Any], float] = field(default=lambda widths: 0.0)
    image_macs: float = 0.0

    def score(self, widths: Any) -> Any:
        return self.score_many([widths])[0]

    def score_many(self, widths: Any) -> Any:
        return [sample.score for sample in self.samples(widths)]

    def samples(self, trials: Any, *, base: Any = None, referee: Any = None) -> list[Sample]:
        found = self.inner.samples(trials, base=base, referee=referee)
        for widths, sample in zip(trials, found, strict=True):
            seen = len(sample) + CALIBRATION
            self.passes, self.images = self.passes + 1, self.images + seen
            self.image_macs += seen * self.macs(widths)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True, help="supernets and rows are kept here")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--methods", default="", help="measure these alone, for instance greedy,uniform; the result still has all rows"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budgets", default="70,60,50,40,30", help="shares of the MACs, in percent")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    budgets = [Budget.parse(f"macs<={share}%") for share in args.budgets.split(",")]
    kept = args.work / f"rows-{args.budgets}.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for seed in seeds:
        methods = METHODS | (SWITCHES | OTHERS if seed == seeds[0] else {})
        if args.methods:
            methods = {name: methods[name] for name in args.methods.split(",")}
        waiting = {name: one for name, one in methods.items() if not any(is_of(row, seed, name) for row in rows)}
        if waiting:
            trained = obtain_supernet(args.data, seed, args.epochs, args.work)
            for name, method in waiting.items():
                new = measure(trained, seed, name, method, budgets, args.work)
                rows += new
                with kept.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
    if args.methods and not args.out:
        return
    result = summarise(rows, seeds, args.epochs, args.budgets)
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))


def is_of(row: dict[str, Any], seed: int, name: str) -> bool:
    return row["seed"] == seed and row["method"] == name


def measure(
    trained: Trained, seed: int, name: str, method: Method, budgets: list[Budget], work: Path
) -> list[dict[str, Any]]:
    """One search, and the test accuracy of what it found: a row per budget."""
    graph = trained.net.graph
    cost = make_cost("macs", graph)
    space = Space.of(graph.groups)
    order = torch.randperm(len(trained.train), generator=torch.Generator().manual_seed(seed))
    images = [x for x, _ in trained.batches(trained.train.take(order[:CALIBRATION]), CHUNK)]
    inner = SupernetScorer(trained.net, TASK, calibration=images, search=trained.batches(trained.search, CHUNK))
    scorer = Counted(inner, macs=cost)
    test = trained.batches(trained.data.test, 500)
    reached: list[tuple[float, float, int, float]] = []
    wall, processor = time.perf_counter(), time.process_time()

    def on_step(step: Step) -> None:
        with (work / f"steps-{seed}-{name}.jsonl").open("a") as file:
            file.write(json.dumps(step.to_json()) + "\n")
        told = step.costs["macs"], time.perf_counter() - wall, scorer.images, time.process_time() - processor
        reached.append(told)

    base = {"macs": cost(graph.max_widths())}
    found = method.search(space, {"macs": cost}, budgets, scorer, base=base, on_step=on_step)
    seconds, processed = time.perf_counter() - wall, time.process_time() - processor
    rows: list[dict[str, Any]] = []
    for each in found:
        score = inner.judge(each.widths, test)
        rows.append(
            {
                "seed": seed, "method": name, "budget": each.budget.text, "macs": each.costs["macs"],
                "search_loss": each.score.loss, "search_accuracy": each.score.accuracy, "test_accuracy": score.accuracy,
                "seconds": round(seconds, 2), "processor_seconds": round(processed, 2), "steps": len(reached),
                "evaluations": scorer.passes, "images": scorer.images, "image_macs": scorer.image_macs,
                "widths": dict(each.widths),
            }
        )  # fmt: skip
    return rows


def summarise(rows: list[dict[str, Any]], seeds: list[int], epochs: int, budgets: str) -> dict[str, Any]:
    """The figures that follow from the rows; accuracies in points."""

    def of(seed: int, name: str) -> dict[str, dict[str, Any]]:
        return {row["budget"]: row for row in rows if is_of(row, seed, name)}

    def gaps(name: str, against: str, among: list[int]) -> list[float]:
        return [
            100 * (row["test_accuracy"] - of(seed, against)[budget]["test_accuracy"])
            for seed in among
            for budget, row in of(seed, name).items()
        ]

    def speed(name: str, seed: int, unit: str) -> float:
        return next(iter(of(seed, "exhaustive").values()))[unit] / next(iter(of(seed, name).values()))[unit]

    fast = gaps("greedy", "exhaustive", seeds)
    first = seeds[:1]
    curve: dict[str, Any] = {}
    for name in ("greedy", *SWITCHES):
        if among := [seed for seed in seeds if of(seed, name)]:
            lost = gaps(name, "exhaustive", among)
            curve[name] = {"seeds": among} | {
                unit: round(statistics.median(speed(name, seed, key) for seed in among), 2)
                for unit, key in (
                    ("speedup", "seconds"), ("speedup_processor", "processor_seconds"), ("images_ratio", "images")
                )
            }  # fmt: skip
            there = statistics.median(speed("greedy", seed, "processor_seconds") for seed in among)
            curve[name] |= {
                "greedy_on_these_seeds": round(there, 2),
                "mean_accuracy_gap": round(statistics.mean(lost), 3),
                "worst_accuracy_gap": round(min(lost), 3),
            }
    options = f"--seeds {','.join(map(str, seeds))} --epochs {epochs} --budgets {budgets}"
    return {
        "command": f"python benchmarks/search.py {options}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "speedup": round(statistics.median(speed("greedy", seed, "seconds") for seed in seeds), 2),
        "speedup_processor": round(statistics.median(speed("greedy", seed, "processor_seconds") for seed in seeds), 2),
        "images_ratio": round(statistics.median(speed("greedy", seed, "images") for seed in seeds), 2),
        "mean_accuracy_gap": round(statistics.mean(fast), 3),
        "worst_accuracy_gap": round(min(fast), 3),
        "over_uniform": round(statistics.mean(gaps("greedy", "uniform", seeds)), 3),
        "others": {
            name: {
                "mean_accuracy_gap": round(statistics.mean(gaps(name, "exhaustive", first)), 3),
                "images_ratio": round(speed(name, seeds[0], "images"), 2),
            }
            for name in OTHERS
            if of(seeds[0], name)
        },
        "switches": {name: curve[name] for name in SWITCHES if name in curve},
        "curve": curve,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
