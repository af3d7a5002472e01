"""CIFAR-10 and a small MobileNet v2-like network: a laptop's recipe."""

from autoslim.pipeline import RunConfig
from autoslim.train import TrainConfig


def cifar10() -> RunConfig:
    """Give --data hf:FOLDER for a copy on disk; the hub's name is the default."""
    return RunConfig(
        model="zoo:mobilenet_small",
        data="hf:uoft-cs/cifar10",
        budget=("macs<=50%",),
        out="runs/cifar10",
        search_images=1000,
        train=TrainConfig(epochs_supernet=30, epochs_retrain=60, batch_size=128, lr=0.2, augment="crop+flip"),
    )
