"""A network of your own: on the command line `autoslim run --model examples/own_model.py:Net --data digits`."""

from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import nn

import autoslim
from autoslim.pipeline import RunConfig, run
from autoslim.train import TrainConfig


class Net(nn.Module):
    """Nothing in it knows of AutoSlim. Sizes that follow the input (`flatten(1)`, `x.shape[1]`) need no care."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.left(x)  # so stem and left must keep the same channels: one group
        x = torch.cat([x, self.right(x)], dim=1)  # right has a group of its own
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


if __name__ == "__main__":  # the file is read by `run`, too, which looks for Net only
    print(autoslim.trace_channels(Net(), torch.zeros(1, 1, 8, 8)))
    Path("runs").mkdir(exist_ok=True)
    folder = run(
        RunConfig(
            model=f"{__file__}:Net",
            data="digits",
            budget=("params<=60%",),
            out=mkdtemp(prefix="own_model-", dir="runs"),  # must be new or empty: here another one each time
            baselines="none",
            train=TrainConfig(epochs_supernet=1, epochs_retrain=1, augment="none"),  # far too few, but quick
        )
    )
    print(autoslim.load(folder / "models" / "params-60"))
    print("open", folder / "report.html")
