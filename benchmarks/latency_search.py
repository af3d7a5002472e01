"""Does the budget matter? A search under a latency budget against searches that count MACs, at equal measured latency.

    python benchmarks/latency_search.py --data hf:FOLDER --work FOLDER [--seed 0] [--runtime onnxruntime]
        [--batch 32] [--shares 80,65,50,40] [--out FILE] [--json]

On one trained supernet (`supernet.py`; kept in --work), for each share of the widest network's measured latency: what
`Greedy()` finds under that latency; the first network on the path of `Greedy()` under MACs that holds it; the uniform
one that does. Every network is measured for real, and the prediction corrected until what is chosen has been measured.
Each is tested on the test images with BatchNorm statistics of its own.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoslim._process import set_process

set_process()

import torch  # noqa: E402

from autoslim.budget import Budget  # noqa: E402
from autoslim.costs import LatencyCost, make_cost, make_latency  # noqa: E402
from autoslim.score import SupernetScorer  # noqa: E402
from autoslim.search import Greedy, Space, Step, Uniform  # noqa: E402
from autoslim.trace import trace_channels  # noqa: E402
from autoslim.widths import Widths  # noqa: E402
from supernet import CALIBRATION, CHUNK, TASK, obtain_supernet  # noqa: E402

Choose = Callable[[LatencyCost, Budget], Widths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--batch", type=int, default=32, help="images at a time")
    parser.add_argument("--shares", default="80,65,50,40", help="of the widest network's latency, in percent")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    trained = obtain_supernet(args.data, args.seed, args.epochs, args.work)
    served = torch.zeros(args.batch, *trained.data.input_shape)
    graph = trace_channels(trained.net.model, served[:1])  # with the candidates of a run: multiples of 2, 4 or 8
    order = torch.randperm(len(trained.train), generator=torch.Generator().manual_seed(args.seed))
    images = [x for x, _ in trained.batches(trained.train.take(order[:CALIBRATION]), CHUNK)]
    search = trained.batches(trained.search, CHUNK)
    scorer = SupernetScorer(trained.net, TASK, calibration=images, search=search)
    test = trained.batches(trained.data.test, CHUNK)
    space = Space.of(graph.groups)
    macs = make_cost("macs", graph)
    first = make_latency(trained.net.model, graph, served, runtime=args.runtime, cache=args.work)
    base = {"macs": macs(space.widest), "latency": first(space.widest)}
    path: list[Step] = []
    tightest = Budget.parse("macs<=10%")
    Greedy().search(space, {"macs": macs}, [tightest], scorer, base=base, on_step=path.append)

    def by_latency(cost: LatencyCost, budget: Budget) -> Widths:
        (found,) = Greedy().search(space, {"latency": cost, "macs": macs}, [budget], scorer, base=base)
        return found.widths

    def by_macs(cost: LatencyCost, budget: Budget) -> Widths:
        along = [space.widest, *(step.widths for step in path)]
        return next(widths for widths in along if budget.holds({"latency": cost(widths)}, base))

    def uniform(cost: LatencyCost, budget: Budget) -> Widths:
        (found,) = Uniform().search(space, {"latency": cost, "macs": macs}, [budget], scorer, base=base)
        return found.widths

    ways: dict[str, Choose] = {"latency": by_latency, "macs": by_macs, "uniform": uniform}
    rows: list[dict[str, Any]] = []
    for share in args.shares.split(","):
        budget = Budget.parse(f"latency<={share}%")
        for name, choose in ways.items():
            widths, ms, rounds = choose_measured(choose, first, budget)
            score, found = scorer.judge(widths, search), scorer.judge(widths, test)
            rows.append(
                {
                    "way": name, "budget": budget.text, "limit_ms": budget.limits[0].absolute(base), "measured_ms": ms,
                    "rounds": rounds, "macs": macs(widths), "search_loss": score.loss,
                    "search_accuracy": score.accuracy, "test_accuracy": found.accuracy, "widths": dict(widths),
                }
            )  # fmt: skip
    named = ("seed", "epochs", "runtime", "batch", "shares")
    options = " ".join(f"--{name} {getattr(args, name)}" for name in named)
    accuracy = {(row["way"], row["budget"]): 100 * row["test_accuracy"] for row in rows}
    texts = list(dict.fromkeys(row["budget"] for row in rows))
    result: dict[str, Any] = {
        "command": f"python benchmarks/latency_search.py {options}",
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
        "base_ms": base["latency"],
        "table_error": first.error,
        "noise": first.noise,
        **{
            f"over_{other}": {text: round(accuracy["latency", text] - accuracy[other, text], 2) for text in texts}
            for other in ("macs", "uniform")
        },
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text if args.json else json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))


def choose_measured(choose: Choose, cost: LatencyCost, budget: Budget) -> tuple[Widths, float, int]:
    """Chooses, measures and corrects until what is chosen has been measured; gives also how many rounds it took."""
    rounds = 0
    while (widths := choose(cost, budget)) not in cost.measured:
        rounds += 1
        cost = cost.corrected({widths: cost.measure([widths])[0].median})
    return widths, cost.measured[widths], rounds


if __name__ == "__main__":
    main()
