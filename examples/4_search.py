"""Stage 4: the widths for each budget, greedily, in the trained supernet. Needs the files of 1 and 3."""

import json
from pathlib import Path

import torch

import autoslim
from autoslim.data import hold_out, load_data, make_loader
from autoslim.score import SupernetScorer
from autoslim.search import Greedy, Space, match_uniform
from autoslim.tasks import TASKS

folder = Path("runs/examples")
graph = autoslim.ChannelGraph.from_json(json.loads((folder / "graph.json").read_text()))
net = autoslim.Supernet(autoslim.build_model("zoo:resnet_digits"), graph)
net.model.load_state_dict(torch.load(folder / "supernet.pt"))

# BatchNorm statistics of every sub-network come from train images, its score from the search images.
data = load_data("digits")
train, search = hold_out(data.train, seed=0)
calibration = [images for images, _ in make_loader(train, 256, data.mean, data.std).epoch(0)][:2]
judges = list(make_loader(search, 144, data.mean, data.std).epoch(0))
scorer = SupernetScorer(net, TASKS["classification"], calibration=calibration, search=judges)

# The search knows widths, costs, budgets and scores; nothing of modules and images.
space = Space.of(graph.groups)
costs = {"macs": autoslim.make_cost("macs", graph)}
base = {"macs": costs["macs"](graph.max_widths())}
budgets = [autoslim.Budget.parse("macs<=50%"), autoslim.Budget.parse("macs<=25%")]


def tell(step):
    print(f"  {step.group} {step.before} -> {step.after}: {step.costs['macs'] / base['macs']:.0%} of the MACs")


found = Greedy().search(space, costs, budgets, scorer, base=base, on_step=tell)
for each in found:
    _, uniform = match_uniform(space, costs["macs"], each.costs["macs"])
    print(f"{each.budget.text}: accuracy {each.score.accuracy:.1%}, uniform {scorer.score(uniform).accuracy:.1%}")
(folder / "widths.json").write_text(json.dumps(found[0].widths.to_json()))
