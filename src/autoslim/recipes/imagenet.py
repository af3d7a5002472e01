"""The paper's ImageNet runs: one supernet per network, searched under the budgets of its table, and retrained.

From the paper: where the search starts (1.5x, ResNet-50 from 1.0x), 50 supernet epochs, batches of 2,048, 50,000 images
held out to decide the search, label smoothing, a linear decay, and the budgets. Epochs of retraining, learning rates
and weight decays are ours. Give --data folder:PATH for ImageNet as folders, `train` and `val`, one folder per class.
"""

from dataclasses import replace

from autoslim.pipeline import RunConfig
from autoslim.train import TrainConfig


def imagenet_mobilenet_v1() -> RunConfig:
    """MobileNet v1 at 572M, 325M and 150M MACs."""
    return _recipe("mobilenet-v1", "zoo:mobilenet_v1", ("macs<=572M", "macs<=325M", "macs<=150M"))


def imagenet_mobilenet_v2() -> RunConfig:
    """MobileNet v2 at 505M, 305M and 207M MACs."""
    return _recipe("mobilenet-v2", "torchvision:mobilenet_v2", ("macs<=505M", "macs<=305M", "macs<=207M"))


def imagenet_mnasnet() -> RunConfig:
    """MNasNet at 532M, 315M and 217M MACs."""
    return _recipe("mnasnet", "zoo:mnasnet", ("macs<=532M", "macs<=315M", "macs<=217M"))


def imagenet_resnet50() -> RunConfig:
    """ResNet-50 at 3.0G, 2.0G, 1.0G and 570M MACs."""
    budgets = ("macs<=3G", "macs<=2G", "macs<=1G", "macs<=570M")
    config = _recipe("resnet50", "zoo:resnet50", budgets, epochs=100, weight_decay=1e-4, augment="imagenet")
    return replace(config, widen=1.0)


def _recipe(
    name: str, model: str, budgets: tuple[str, ...], *, epochs: int = 250, weight_decay: float = 4e-5,
    augment: str = "mobile",
) -> RunConfig:  # fmt: skip
    train = TrainConfig(
        epochs_supernet=50,
        epochs_retrain=epochs,
        batch_size=2048,
        lr=1.0,
        schedule="linear",
        weight_decay=weight_decay,
        label_smoothing=0.1,
        augment=augment,  # pyright: ignore[reportArgumentType]
        checkpoint_minutes=15,
    )
    return RunConfig(
        model=model,
        data="folder:imagenet",
        budget=budgets,
        out=f"runs/imagenet-{name}",
        input="3,224,224",
        widen=1.5,
        search_images=50_000,
        train=train,
    )
