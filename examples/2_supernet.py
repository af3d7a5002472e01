"""Stage 2: one set of weights that runs at any widths. Needs the file of 1_trace.py."""

import json
from pathlib import Path

import torch

import autoslim

graph = autoslim.ChannelGraph.from_json(json.loads(Path("runs/examples/graph.json").read_text()))
model = autoslim.build_model("zoo:resnet_digits").eval()
net = autoslim.Supernet(model, graph)
images = torch.rand(4, 1, 8, 8)

# At full width the model itself runs, bit for bit.
assert torch.equal(net(images), model(images))

# Inside `at` a sub-network runs in place; the model's code, class and parameters stay what they are.
widths = graph.random_widths(seed=4)
with net.at(widths):
    inside = net(images)
    inside.sum().backward()
print("widths:", dict(widths))

# Gradients reach the channels that took part, and no others.
stem = model.get_parameter("stem.weight")
touched = int(stem.grad.flatten(1).any(1).sum())
print(f"stem: {touched} of {len(stem)} channels got a gradient")
assert touched <= widths["stem"]

# The same selection as copies: a plain module of the same class with smaller layers.
small = autoslim.extract_network(model, graph, widths)
assert torch.allclose(small(images), inside, atol=1e-5)
print(f"extracted: {type(small).__name__}, {sum(p.numel() for p in small.parameters()):,} parameters, same output")
