"""Semantic segmentation: cross entropy of each pixel, soft targets of each pixel, mean IoU over all images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional

from autoslim.tasks._base import TASKS, Fit, Metric
from autoslim.tasks._outputs import draw_images, heads_of, match_soft, note_spare, soften, weigh_heads, widen

IGNORED = 255  # a pixel that is of no class: neither learnt nor counted


class Masks:
    """A class for each pixel: an image of Pillow's (modes 1, L, P) or whole numbers [H, W], 255 where unknown."""

    augments = ("none", "flip", "crop", "crop+flip")
    at_once = 32

    def read(self, target: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Uint8 [H, W]."""
        mask = np.asarray(target)
        mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
        if mask.ndim != 2 or mask.dtype.kind not in "iub":
            raise ValueError(
                f"its mask is {type(target).__name__} {mask.dtype} {list(mask.shape)}; expected an image of Pillow's "
                "in mode 1, L or P, or whole numbers [H, W]"
            )
        if mask.shape != size:
            raise ValueError(f"its mask is {list(mask.shape)}; expected the image's {list(size)}")
        if mask.min() < 0 or mask.max() > IGNORED:
            raise ValueError(f"its mask has values from {mask.min()} to {mask.max()}; expected 0 to {IGNORED}")
        return mask.astype(np.uint8)

    def stratum(self, target: NDArray[Any]) -> int:
        """The class that covers most beside class 0, the background; 0 where there is no other."""
        counts = np.bincount(target[(target > 0) & (target < IGNORED)], minlength=1)
        return int(counts.argmax())

    def outputs(self, target: NDArray[Any]) -> int:
        return int(target[target < IGNORED].max(initial=0)) + 1

    def fit(self, target: NDArray[Any], fit: Fit) -> NDArray[Any]:
        """Scaled by the nearest pixel, so that no class is made up."""
        (height, width), (top, left) = fit.scaled, fit.corner
        mask = Image.fromarray(target)
        mask = mask if mask.size == (width, height) else mask.resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(mask)[top : top + fit.size[0], left : left + fit.size[1]]

    def join(self, targets: Sequence[NDArray[Any]]) -> torch.Tensor:
        """Uint8 [N, H, W]; masks of a single class teach nothing and are always right, so they are refused."""
        values: set[int] = set()
        for target in targets:
            values.update(np.unique(target).tolist())
            if len(values - {IGNORED}) > 1:
                return torch.from_numpy(np.stack(targets))
        if values == {0, IGNORED}:
            raise ValueError(
                f"masks have the values 0 and {IGNORED} alone, and {IGNORED} means unknown; expected two classes or "
                "more. Write the foreground as 1"
            )
        told = ", ".join(f"class {value} alone" for value in values - {IGNORED}) or "no class at all"
        raise ValueError(f"masks have {told}; expected two classes or more (pixels of {IGNORED} are of none)")

    def move(self, targets: torch.Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> torch.Tensor:
        each = np.arange(len(targets))[:, None, None]
        return torch.from_numpy(targets.numpy()[each, rows[:, :, None], columns[:, None, :]])


def mean_iou(facts: NDArray[Any]) -> float:
    """Mean over the classes of intersection over union, both summed over all images before they are divided.

    >>> mean_iou(np.array([[[2, 1, 0], [3, 4, 0]], [[1, 0, 0], [3, 0, 0]]]))
    0.375

    Args:
        facts: Of each image, per class the pixels of the intersection and of the union, [N, 2, classes]. A class
            without a pixel in either is left out; 0 where there is none at all.
    """
    intersection, union = facts.astype(np.float64).sum(0)
    there = union > 0
    return float((intersection[there] / union[there]).mean()) if there.any() else 0.0


class Segmentation:
    """Logits [N, classes, H, W] against masks [N, H, W]; further outputs are auxiliary heads, weighted 0.3."""

    name = "segmentation"
    metric = Metric("mean IoU", whole=mean_iou)
    targets = Masks()
    normalised = True

    def example(self) -> tuple[nn.Module, torch.Tensor, Sequence[Any], int]:
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1)
        masks = torch.randint(0, 3, (4, 12, 16), generator=torch.Generator().manual_seed(1))
        masks[0, 0, :5] = IGNORED
        return nn.Sequential(*layers), draw_images(), list(masks), 3

    def adapt(self, model: nn.Module) -> nn.Module:
        return model

    def check(self, output: Any, outputs: int) -> str | None:
        shape = [list(head.shape) for head in heads_of(output)[:1]]
        if not shape or len(shape[0]) != 4 or shape[0][1] < outputs:
            told = shape[0] if shape else "no tensor"
            raise ValueError(f"it is {told}. Expected logits [N, {outputs}, H, W]")
        return note_spare(shape[0][1], outputs)

    def loss(self, output: Any, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """The mean over all pixels of the batch that have a class."""
        masks = targets.long()
        known = (masks != IGNORED).sum().clamp_min(1)
        losses = [
            functional.cross_entropy(
                widen(head), masks, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
            )
            / known
            for head in heads_of(output)
        ]
        return weigh_heads(losses)

    def teach(self, output: Any) -> Any:
        """The widest's soft output (temperature 1), one distribution per head and pixel."""
        return soften(output)

    def distill(self, output: Any, taught: Any) -> torch.Tensor:
        """Cross entropy with the soft targets, the mean over all pixels."""
        return match_soft(output, taught)

    def judge(self, output: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each image's loss, the mean over its pixels, float64 [N]; intersections and unions int32 [N, 2, classes]."""
        logits, masks = widen(heads_of(output)[0].detach()), targets.long()
        known = masks != IGNORED
        losses = functional.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none").flatten(1)
        loss = losses.cpu().double().sum(1) / known.flatten(1).sum(1).cpu().clamp_min(1)
        num, classes = logits.shape[:2]
        said, right = logits.argmax(1)[known], masks[known]
        image = torch.arange(num, device=logits.device)[:, None, None].expand_as(masks)[known] * classes

        def count(of: torch.Tensor) -> torch.Tensor:
            return torch.bincount(of, minlength=num * classes).reshape(num, classes)

        both = count((image + right)[said == right])
        union = count(image + said) + count(image + right) - both
        return loss, torch.stack([both, union], 1).cpu().int()


TASKS.register("segmentation", Segmentation())
