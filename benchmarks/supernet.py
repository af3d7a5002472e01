"""The supernet that `search.py` searches: a small one, trained once per seed and kept in a folder.

A MobileNet v2 at half width whose strides leave 2x2 pixels of a 32x32 image: 25 channel groups, of 12 levels each but
one (whole channels, no multiples of 8), 5.15M MACs.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from autoslim import Supernet, trace_channels
from autoslim.data import Data, Loader, Split, hold_out, load_data
from autoslim.models import build_model
from autoslim.saved import load_tensors_, save_tensors
from autoslim.tasks import TASKS
from autoslim.train import TrainConfig, train_supernet

STAGES = "[[1,16,1,1],[6,24,2,2],[6,32,3,2],[6,64,4,1],[6,96,3,1],[6,160,3,2],[6,320,1,1]]"
MODEL = f"torchvision:mobilenet_v2?width_mult=0.5&inverted_residual_setting={STAGES}"
TASK = TASKS["classification"]
SEARCH, CALIBRATION, CHUNK = 2000, 512, 512  # images


@dataclass(frozen=True)
class Trained:
    """A trained supernet and the images it is searched and tested with."""

    net: Supernet
    data: Data
    train: Split
    search: Split

    def batches(self, split: Split, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The images in order, as they are."""
        return list(Loader(split, size, self.data.mean, self.data.std).epoch(0))


def obtain_supernet(spec: str, seed: int, epochs: int, folder: Path) -> Trained:
    """Trains the supernet, or takes it from the folder."""
    data = load_data(spec, seed=seed)
    train, search = hold_out(data.train, seed=seed)
    torch.manual_seed(seed)
    model = build_model(MODEL, num_classes=data.num_classes).to(memory_format=torch.channels_last)
    graph = trace_channels(model, torch.zeros(1, *data.input_shape)).limit("*", divisor=1)
    net, path = Supernet(model, graph), folder / f"supernet-{seed}-{epochs}.safetensors"
    if path.exists():
        load_tensors_(path, model)
    else:
        config = TrainConfig(epochs_supernet=epochs, batch_size=64, lr=0.05)
        loader = Loader(
            train, config.batch_size, data.mean, data.std, "crop+flip", shuffle=True, drop_last=True, seed=seed
        )
        fabric = Fabric(accelerator="cpu", devices=1)
        train_supernet(net, loader, config, task=TASK, seed=seed, runtime=fabric, on_step=_pass)
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(path, model)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Trained(net, data, train, search.take(torch.arange(min(SEARCH, len(search)))))


def _pass(loss: float, done: int) -> None:
    """Nothing is shown."""
