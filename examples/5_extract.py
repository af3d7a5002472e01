"""Stage 5: widths -> a plain module, trained like any other. Needs the files of 1 and 4."""

import json
from pathlib import Path

import torch
from torch.nn import functional

import autoslim
from autoslim.data import load_data, make_loader

folder = Path("runs/examples")
graph = autoslim.ChannelGraph.from_json(json.loads((folder / "graph.json").read_text()))
widths = autoslim.Widths.from_json(json.loads((folder / "widths.json").read_text()))

# A copy of your class with smaller layers; nothing of this library is in it.
torch.manual_seed(0)
small = autoslim.extract_network(autoslim.build_model("zoo:resnet_digits"), graph, widths)
print(f"{type(small).__name__}: {sum(p.numel() for p in small.parameters()):,} parameters")

# So an ordinary loop trains it.
data = load_data("digits")
loader = make_loader(data.train, 64, data.mean, data.std, shuffle=True)
optimizer = torch.optim.SGD(small.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
for epoch in range(3):
    for images, labels in loader.epoch(epoch):
        loss = functional.cross_entropy(small(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

small.eval()
with torch.no_grad():
    right = [small(x).argmax(1) == y for x, y in make_loader(data.test, 359, data.mean, data.std).epoch(0)]
print(f"test accuracy {torch.cat(right).float().mean():.1%}")
torch.save(small.state_dict(), folder / "slim.pt")
