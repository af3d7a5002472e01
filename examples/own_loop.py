"""The supernet inside a training loop that somebody else wrote: what is added ends in `# +`, what goes is `# -`."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from autoslim import Budget, Supernet, extract_network, make_cost, trace_channels  # +
from autoslim.score import SupernetScorer  # +
from autoslim.search import Greedy, Space  # +
from autoslim.tasks import TASKS  # +

torch.manual_seed(0)
digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(images))
train, search, test = order[:1200], order[1200:1440], order[1440:]

model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
)
graph = trace_channels(model, images[:1])  # +
net = Supernet(model, graph)  # +
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

for step in range(200):
    chosen = train[torch.randint(len(train), (64,))]
    x, target = images[chosen], labels[chosen]
    optimizer.zero_grad()
    # - functional.cross_entropy(model(x), target).backward()
    for widths in (graph.max_widths(), graph.min_widths(), *map(graph.random_widths, (2 * step, 2 * step + 1))):  # +
        with net.leaves_at(widths):  # +
            output = net(x)  # +
            functional.cross_entropy(output, target).backward()  # +
        if target.dtype == torch.int64:  # + the widest has learnt from the labels; the others learn from it
            target = output.detach().softmax(1)  # +
    optimizer.step()

# The search, once: it ends in a plain module that the rest of the script can't tell from the first one.
space = Space.of(graph.groups)  # +
macs, judges = make_cost("macs", graph), (images[search], labels[search])  # +
scorer = SupernetScorer(net, TASKS["classification"], calibration=[images[train[:512]]], search=[judges])  # +
(found,) = Greedy().search(space, {"macs": macs}, [Budget.parse("macs<=45k")], scorer, base={})  # +
model = extract_network(model, graph, found.widths)  # +
model.train()(images[train])  # + BatchNorm statistics of its own, to be used without further training

model.eval()
accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean()
print(f"{sum(p.numel() for p in model.parameters())} parameters, test accuracy {accuracy:.1%}")
