"""Which learning rate a comparison should use: short trainings of uniform networks, judged on search images.

    python benchmarks/rates.py --data hf:FOLDER --model SPEC [--rates 0.2,0.1] [--shares 100,25] [--epochs 1] --out FILE

Test images are never read, and no widths that a search found are trained: nothing that a comparison is about is looked
at. Shares are of the MACs, in percent.
"""

import argparse
import itertools
import json
from pathlib import Path

from autoslim._process import set_process

set_process()  # before the first operator runs, as the command line does

import torch  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402

from autoslim import trace_channels  # noqa: E402
from autoslim.costs import make_cost  # noqa: E402
from autoslim.data import Data, Loader, hold_out, load_data  # noqa: E402
from autoslim.extract import extract_network  # noqa: E402
from autoslim.models import build_model  # noqa: E402
from autoslim.score import evaluate  # noqa: E402
from autoslim.search import Space, match_uniform  # noqa: E402
from autoslim.tasks import TASKS  # noqa: E402
from autoslim.train import TrainConfig, train_network  # noqa: E402

TASK = TASKS["classification"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rates", default="0.2,0.1,0.05")
    parser.add_argument("--shares", default="100,25")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(args.data, seed=0)
    rates, shares = ([float(part) for part in text.split(",")] for text in (args.rates, args.shares))
    rows = []
    for share, rate in itertools.product(shares, rates):
        rows.append({"share": share, "lr": rate, "accuracy": try_rate(data, args.model, share, rate, args.epochs)})
        print(json.dumps(rows[-1]), flush=True)
    told = {"model": args.model, "epochs": args.epochs, "judged on": "search images", "rows": rows}
    args.out.write_text(json.dumps(told, indent=1) + "\n")


def try_rate(data: Data, model: str, share: float, rate: float, epochs: int) -> float:
    """Accuracy on the search images after a short training, in percent."""
    train, search = hold_out(data.train, seed=0)
    torch.manual_seed(0)
    network = build_model(model, num_classes=data.num_classes)
    graph = trace_channels(network, torch.zeros(1, *data.input_shape))
    cost = make_cost("macs", graph)
    space = Space.of(graph.groups)
    _, widths = match_uniform(space, cost, cost(graph.max_widths()) * share / 100)
    network = extract_network(network, graph, widths).to(memory_format=torch.channels_last)
    config = TrainConfig(epochs_retrain=epochs, batch_size=128, lr=rate)
    batches = Loader(train, config.batch_size, data.mean, data.std, "crop+flip", shuffle=True, drop_last=True, seed=0)
    fabric = Fabric(accelerator="cpu", devices=1)
    train_network(network, batches, config, task=TASK, seed=0, runtime=fabric, on_step=_pass)
    return 100 * evaluate(network, Loader(search, 500, data.mean, data.std).epoch(0), TASK).score.accuracy


def _pass(loss: float, done: int) -> None:
    """Nothing is shown."""


if __name__ == "__main__":
    main()
