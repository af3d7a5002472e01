"""Stage 3: all widths are trained at once: sandwich rule, in-place distillation. Needs the file of 1_trace.py."""

import json
from pathlib import Path

import torch
from lightning_fabric import Fabric

import autoslim
from autoslim.data import hold_out, load_data, make_loader
from autoslim.tasks import TASKS
from autoslim.train import TrainConfig, train_supernet

folder = Path("runs/examples")
torch.manual_seed(0)
graph = autoslim.ChannelGraph.from_json(json.loads((folder / "graph.json").read_text()))
net = autoslim.Supernet(autoslim.build_model("zoo:resnet_digits"), graph)

# The images that will decide the search are held out of train; test is not touched before the end.
data = load_data("digits")
train, search = hold_out(data.train, seed=0)
loader = make_loader(train, 64, data.mean, data.std, shuffle=True, drop_last=True)

# Each step: the widest learns from the labels; the narrowest and two random ones learn from its output.
config = TrainConfig(epochs_supernet=2, lr=0.1)
trained = train_supernet(
    net,
    loader,
    config,
    task=TASKS["classification"],
    seed=0,
    runtime=Fabric(accelerator="cpu", devices=1),
    on_step=lambda loss, step: None,
)
print("summed loss of each epoch:", [round(loss, 2) for loss in trained.losses])
torch.save(net.model.state_dict(), folder / "supernet.pt")
