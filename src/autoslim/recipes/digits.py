"""scikit-learn's 1,797 real handwritten digits, 8x8, and a small residual network: the whole job in minutes."""

from autoslim.pipeline import RunConfig
from autoslim.train import TrainConfig


def digits() -> RunConfig:
    """Needs no download; two budgets from one search."""
    return RunConfig(
        model="zoo:resnet_digits",
        data="digits",
        budget=("macs<=50%", "macs<=25%"),
        out="runs/digits",
        train=TrainConfig(epochs_supernet=20, epochs_retrain=20, batch_size=64, lr=0.1, augment="crop"),
    )
