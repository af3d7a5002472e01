"""How the networks are trained, in numbers."""

import math
from dataclasses import dataclass
from typing import Literal

from autoslim._registry import check_choices
from autoslim.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the supernet and the found networks are trained: SGD with Nesterov momentum."""

    epochs_supernet: int = 20
    """Epochs of the supernet, on train without the search images."""
    epochs_retrain: int = 20
    """Epochs of each found network, of the uniform ones and of your own, on all of train."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 0.1
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to 0 after that."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """On all weights but those of BatchNorm, biases and depthwise kernels."""
    label_smoothing: float = 0.0
    """For whatever learns from labels: the widest network of the supernet, and each network that is retrained."""
    augment: Literal["none", "flip", "crop", "crop+flip", "imagenet", "mobile", "randaugment"] = "crop+flip"
    """Crops of the image padded by an eighth, flips; or timm's resized crops, flips and colours."""
    mixup: float = 0.0
    """Alpha of mixup: each image is blended with another; 0: none. With cutmix each batch gets one of the two."""
    cutmix: float = 0.0
    """Alpha of cutmix: a rectangle of each image is another's; 0: none."""
    erase: float = 0.0
    """Share of the images in which a rectangle is erased, after all else."""
    random_subnets: int = 2
    """Sub-networks per supernet step beside the widest and the narrowest (the sandwich rule's n)."""
    different_subnets: bool = False
    """Of several processes each draws random sub-networks of its own; else all draw the same."""
    sync_batchnorm: bool = False
    """BatchNorm's statistics over the images of all processes in training; else of each process's own."""
    accumulate: int = 1
    """Parts that each batch is cut into, one after the other: less memory. BatchNorm sees a part at a time."""
    clip: float = 0.0
    """Largest norm of a step's gradient; 0: as it is."""
    ema: float = 0.0
    """Retrained networks become the average of their weights over the steps, fading by this factor, faster at first;
    0: the last."""
    compile: bool = False
    """The networks that are retrained are compiled (torch.compile)."""
    cuda_graph: bool = False
    """On an NVIDIA GPU, the passes of networks that are retrained are recorded once and replayed, which saves the time
    between small kernels. The numbers are the same."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """What training calculates in: the mixed ones keep weights in 32 bits; 16-mixed, float16, needs a GPU."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints; the end of an epoch has one, too."""

    def __post_init__(self) -> None:
        check_choices(self, TrainConfig)
        counts = {"epochs_supernet": 1, "epochs_retrain": 1, "batch_size": 2, "random_subnets": 0, "accumulate": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"TrainConfig.{name} is {getattr(self, name)}; expected at least {least}.")
        ranges = {"lr": (0, None), "warmup": (0, 1), "momentum": (0, 1), "label_smoothing": (0, 1)}
        ranges |= {"mixup": (0, None), "cutmix": (0, None), "erase": (0, 1)}
        ranges |= {"weight_decay": (0, None), "clip": (0, None), "ema": (0, 1), "checkpoint_minutes": (0, None)}
        others = [name for name in ("compile", "sync_batchnorm") if getattr(self, name)]
        others += ["accumulate"] if self.accumulate > 1 else []
        if self.cuda_graph and others:
            raise ConfigError(
                f"TrainConfig.cuda_graph was given together with {others[0]}; expected one of the two: a step's passes "
                "are recorded whole, as they are. Drop one."
            )
        if self.different_subnets and self.sync_batchnorm:
            raise ConfigError(
                "TrainConfig.different_subnets was given together with sync_batchnorm; expected one of the two: "
                "processes that run other widths have no statistics in common. Drop one."
            )
        for name, (least, below) in ranges.items():
            value = getattr(self, name)
            fits = math.isfinite(value) and value >= least and (below is None or value < below)
            if not fits or (name == "lr" and value == 0):
                what = "above 0" if name == "lr" else f"{least} or more" + (f", below {below}" if below else "")
                raise ConfigError(
                    f"TrainConfig.{name} is {value}; expected {what}. Give another --{name.replace('_', '-')}, or none "
                    f"for the recipe's."
                )
