"""Stage 1: which channels of a network can go, and what any choice of widths costs. Nothing is trained."""

import json
from pathlib import Path

import torch

import autoslim

model = autoslim.build_model("zoo:resnet_digits")  # or any nn.Module of yours
graph = autoslim.trace_channels(model, torch.zeros(1, 1, 8, 8))
print(graph)  # each group: its channels, its atom, the widths it may take, or why it is frozen

macs, params = autoslim.make_cost("macs", graph), autoslim.make_cost("params", graph)
choices = {"widest": graph.max_widths(), "half": graph.uniform_widths(0.5), "narrowest": graph.min_widths()}
for name, widths in choices.items():
    print(f"{name:10} {macs(widths) / 1e6:.3f}M MACs, {params(widths):,.0f} parameters")

# A stage leaves a plain file for the next one.
folder = Path("runs/examples")
folder.mkdir(parents=True, exist_ok=True)
(folder / "graph.json").write_text(json.dumps(graph.to_json()))
