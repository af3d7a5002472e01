"""The paper's second table: MobileNet v2 on CIFAR-10, searched from 1.5x, retrained at the 88M MACs of 1.0x."""

from autoslim.pipeline import RunConfig
from autoslim.train import TrainConfig


def cifar10_paper() -> RunConfig:
    """50 epochs of the supernet, 300 of retraining. Give --data hf:FOLDER for a copy on disk."""
    return RunConfig(
        model="zoo:mobilenet_v2_32",
        data="hf:uoft-cs/cifar10",
        budget=("macs<=88M",),
        out="runs/cifar10-paper",
        widen=1.5,
        search_images=5000,
        train=TrainConfig(epochs_supernet=50, epochs_retrain=300, batch_size=128, lr=0.1, augment="crop+flip"),
    )
