"""What all tests start from."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on digits, with two budgets and nothing retrained; to be read, and written beside."""
    from autoslim.pipeline import RunConfig, run
    from autoslim.progress import Shown
    from autoslim.train import TrainConfig

    config = RunConfig(
        model="zoo:resnet_digits?width=8",
        data="digits",
        budget=("macs<=60%", "macs<=30%"),
        search_images=64,
        baselines="none",
        retrain="none",
        out=str(tmp_path_factory.mktemp("finished") / "digits"),
        train=TrainConfig(epochs_supernet=1, epochs_retrain=1),
    )
    return run(config, shown=Shown(quiet=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are left out, and counted as such, where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="there is no NVIDIA GPU here"))


@pytest.fixture(autouse=True)
def interrupts():
    """Ctrl-C is heard, also where the tests were started in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Takes(nn.Module):
    """A network that is given more than images: the trace takes any arguments."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.words, self.first, self.second = nn.Embedding(9, 3), nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Any, other: Any = None) -> torch.Tensor:
        if self.how == "ids":
            x = self.words(x).permute(0, 3, 1, 2)
        y = self.first({"dict": lambda: x["image"], "list": lambda: torch.stack(x)}.get(self.how, lambda: x)())
        if self.how == "scalar":
            y = y * (1 / other)
        elif self.how == "mask":
            y = y.masked_fill(other, 0)
        return self.second(torch.relu(y))


IMAGE = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
ARGUMENTS = {
    "ids": (torch.arange(8).view(1, 2, 4),),
    "scalar": (IMAGE, 2.0),
    "dict": ({"image": IMAGE},),
    "list": ([IMAGE[0]],),
    "mask": (IMAGE, IMAGE[:, :1] > 0.5),
}


@pytest.fixture(params=ARGUMENTS)
def takes(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network in eval mode and the arguments it is given."""
    return Takes(request.param).eval(), ARGUMENTS[request.param]
