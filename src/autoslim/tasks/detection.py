"""Object detection: the loss of SSD (Liu et al. 2016), soft targets of each default box, mAP by torchmetrics.

Boxes are kept as shares of the image, [x1, y1, x2, y2] from 0 to 1: they are the same at every size.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from autoslim._extras import install_extra
from autoslim.errors import ConfigError, ModelError
from autoslim.tasks._base import TASKS, Fit, Metric
from autoslim.tasks._outputs import draw_images, note_spare

_NEEDS = ("torchmetrics", "pycocotools")
_MATCH, _NEGATIVES = 0.5, 3.0  # IoU of a match; background boxes that count for each matched one (section 2.2 of SSD)
_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the offsets of centre and size
_FARTHEST = math.log(1000 / 16)  # a size grows by no larger factor
_SCORE, _OVERLAP, _BEST = 0.001, 0.55, 300  # of a detection: least score, IoU of doubles, per class before doubles go
_KEPT = 100  # detections of an image that count, as COCO counts them
_OVERHANG = 1.0  # pixels: a box that reaches less far out of the image was rounded, and is cut there
_LEAST = 0.25  # of a box that must be left when the image is cut


class Boxes:
    """Boxes with classes, as torchvision has them: a dict of "boxes" [M, 4], corners in pixels, and "labels" [M].

    Labels are from 1, 0 is the background. Boxes that "iscrowd" marks are left out. Only flips move them: what a shift
    mirrors at the edges would be objects without a box.
    """

    augments = ("none", "flip")
    at_once = 32

    def read(self, target: Any, size: tuple[int, int]) -> NDArray[np.float32]:
        """Float32 [M, 5]: corners as shares of the image, and the label; less than a pixel outside it is cut off."""
        if not isinstance(target, dict) or not {"boxes", "labels"} <= set(target):
            keys = f" with {', '.join(map(str, target))}" if isinstance(target, dict) else ""
            raise ValueError(
                f'its target is {type(target).__name__}{keys}; expected a dict with "boxes" [M, 4] and "labels" [M]'
            )
        boxes = np.asarray(target["boxes"], dtype=np.float64).reshape(-1, 4)
        labels = np.asarray(target["labels"]).reshape(-1)
        if len(boxes) != len(labels) or (len(labels) and (labels.dtype.kind not in "iu" or labels.min() < 1)):
            raise ValueError(
                f"it has {len(boxes)} boxes and the labels {labels[:5].tolist()}; expected one whole number from 1 for "
                "each box (0 is the background)"
            )
        kept = ~np.asarray(target.get("iscrowd", np.zeros(len(labels)))).astype(bool).reshape(-1)
        boxes, most = boxes[kept], np.array([size[1], size[0]] * 2, dtype=np.float64)
        inside = boxes.clip(0, most)
        right = (inside[:, 2:] > inside[:, :2]).all(1) & (abs(boxes - inside) < _OVERHANG).all(1)
        if not right.all():
            raise ValueError(
                f"a box is {boxes[~right][0].tolist()} in an image of {size[0]}x{size[1]}; expected left, top, "
                "right, bottom in pixels, inside the image and with an area"
            )
        return np.concatenate([inside / most, labels[kept, None]], 1).astype(np.float32)

    def stratum(self, target: NDArray[Any]) -> int:
        """The class of the largest box; 0 without one."""
        return int(target[np.argmax(_areas(target)), 4]) if len(target) else 0

    def outputs(self, target: NDArray[Any]) -> int:
        """Classes, the background among them."""
        return int(target[:, 4].max(initial=1)) + 1

    def fit(self, target: NDArray[Any], fit: Fit) -> NDArray[Any]:
        """A box of which less than a quarter of the area is left is dropped."""
        scaled, corner, size = (
            np.array(pair[::-1] * 2, dtype=np.float32) for pair in (fit.scaled, fit.corner, fit.size)
        )
        moved = ((target[:, :4] * scaled - corner) / size).astype(np.float32)
        inside = moved.clip(0, 1)
        kept = _areas(inside) >= _LEAST * _areas(moved)
        return np.concatenate([inside, target[:, 4:]], 1)[kept]

    def join(self, targets: Sequence[NDArray[Any]]) -> torch.Tensor:
        """Float32 [N, M, 5] of as many rows as the image with most boxes has; those without a box are zeros."""
        joined = np.zeros((len(targets), max([1, *map(len, targets)]), 5), dtype=np.float32)
        for row, target in zip(joined, targets, strict=True):
            row[: len(target)] = target
        return torch.from_numpy(joined)

    def move(self, targets: torch.Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> torch.Tensor:
        mirrored = torch.from_numpy(columns[:, 0] > columns[:, -1])
        left, top, right, bottom, label = targets.unbind(2)
        flipped = torch.stack([1 - right, top, 1 - left, bottom, label], 2) * (label > 0)[..., None]
        return torch.where(mirrored[:, None, None], flipped, targets)


class RawDetector(nn.Module):
    """One of torchvision's SSD networks as its heads speak: no loss and no suppression of doubles inside.

    It holds the same layers under the same names. From images [N, 3, H, W], 0 to 1, it gives "cls_logits" [N, A,
    classes], "bbox_regression" [N, A, 4], and the default boxes "anchors" [A, 4], as shares of the image.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        from torchvision.models.detection.image_list import ImageList

        transform: Any = self.transform
        mean, std = (
            torch.tensor(each, dtype=images.dtype, device=images.device)[:, None, None]
            for each in (transform.image_mean, transform.image_std)
        )
        x, size = (images - mean) / std, transform.fixed_size[::-1]
        if tuple(x.shape[-2:]) != tuple(size):
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        features: Any = self.backbone(x)  # pyright: ignore[reportCallIssue]
        maps = [features] if isinstance(features, torch.Tensor) else list(OrderedDict(features).values())
        found: dict[str, torch.Tensor] = self.head(maps)  # pyright: ignore[reportCallIssue]
        height, width = x.shape[-2:]
        made: Any = self.anchor_generator
        sizes = [images.new_empty((1, 1, *each.shape[-2:])) for each in maps]  # in the images' precision, not the maps'
        with torch.device(made._wh_pairs[0].device):  # where its own constants lie, a trace has them without values
            (anchors,) = made(ImageList(x[:1], [(height, width)]), sizes)
        return {**found, "anchors": anchors / anchors.new_tensor([width, height, width, height])}


class Detection:
    """Outputs of `RawDetector` against boxes [N, M, 5]: torchvision's ssdlite320_mobilenet_v3_large, ssd300_vgg16."""

    name = "detection"
    normalised = False  # torchvision's detectors take images from 0 to 1

    def __init__(self) -> None:
        self.metric, self.targets = Metric("mAP", whole=mean_average_precision), Boxes()

    def example(self) -> tuple[nn.Module, torch.Tensor, Sequence[Any], int]:
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        model: Any = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4, width_mult=0.35)
        model.transform.fixed_size = (48, 48)
        two = {"boxes": torch.tensor([[1.0, 2, 9, 10], [4, 0, 16, 12]]), "labels": torch.tensor([1, 3])}
        one = {"boxes": torch.tensor([[2.0, 2, 8, 9]]), "labels": torch.tensor([2])}
        none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        return model, draw_images().sigmoid(), [two, one, none, one], 4

    def adapt(self, model: nn.Module) -> nn.Module:
        from torchvision.models.detection.ssd import SSD

        missing = [package for package in _NEEDS if find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"The task detection needs {' and '.join(missing)}, which is not installed here; expected them for the "
                f"mAP. Install them with {install_extra('detection')}."
            )
        fixed = getattr(getattr(model, "transform", None), "fixed_size", None)
        if not isinstance(model, SSD) or fixed is None:
            raise ModelError(
                f"The task detection can't train {type(model).__name__}; expected an SSD of torchvision's with a fixed "
                "input size, such as torchvision:ssdlite320_mobilenet_v3_large. Choose one, or write a task of your "
                "own."
            )
        return RawDetector(model)

    def check(self, output: Any, outputs: int) -> str | None:
        classes = output["cls_logits"].shape[2]
        if classes < outputs:
            raise ValueError(f"it tells {classes} classes apart. Expected {outputs}, the background among them")
        return note_spare(classes, outputs)

    def loss(self, output: Any, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """Sum over the matched boxes of smooth L1 and cross entropy, and over three times as many of background.

        It is divided by the number of matched boxes. Background boxes are those with the largest loss (section 2.2).
        """
        losses, matched = _losses(output, targets, smoothing)
        return losses.sum() / matched.sum().clamp_min(1)

    def teach(self, output: Any) -> Any:
        """The widest's soft classes and its offsets, of every default box."""
        return functional.softmax(output["cls_logits"].detach().float(), 2), output["bbox_regression"].detach().float()

    def distill(self, output: Any, taught: Any) -> torch.Tensor:
        """Kullback-Leibler divergence of the classes, and smooth L1 of the offsets where the widest sees an object.

        Both are summed over all default boxes and divided by the number of objects that the widest sees, which is a sum
        of probabilities: as the loss from boxes is divided by the matched ones.
        """
        soft, offsets = taught
        seen = 1 - soft[..., 0]
        logits, said = output["cls_logits"].float(), output["bbox_regression"].float()
        classes = functional.kl_div(functional.log_softmax(logits, 2), soft, reduction="none").sum(2)
        moved = functional.smooth_l1_loss(said, offsets, reduction="none").sum(2)
        return (classes + seen * moved).sum() / seen.sum().clamp_min(1)

    def judge(self, output: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each image's loss by its own matched boxes, float64 [N]; float32 [N, 600 + 5 M]: detections and boxes."""
        losses, matched = _losses(output, targets, 0.0)
        found = detect(output)
        kept = torch.zeros(len(targets), _KEPT, 6)
        for row, one in zip(kept, found, strict=True):
            row[: len(one)] = one[:_KEPT].cpu()
        facts = torch.cat([kept.flatten(1), targets.cpu().float().flatten(1)], 1)
        return (losses.cpu().double() / matched.cpu().clamp_min(1)), facts


def detect(output: Any) -> list[torch.Tensor]:
    """What is found in each image, the likeliest first: [D, 6] of corners as shares, score, and label."""
    from torchvision.ops import batched_nms

    scores = functional.softmax(output["cls_logits"].detach().float(), 2)
    boxes = _decode(output["bbox_regression"].detach().float(), output["anchors"].float()).clamp(0, 1)
    found: list[torch.Tensor] = []
    for own, box in zip(scores, boxes, strict=True):
        best, at = own[:, 1:].topk(min(_BEST, len(own)), dim=0)  # [best, classes - 1]
        label = torch.arange(1, own.shape[1], device=own.device).expand_as(best)
        known = best > _SCORE
        best, at, label = best[known], at[known], label[known]
        kept = batched_nms(box[at], best, label, _OVERLAP)[:_BEST]
        found.append(torch.cat([box[at][kept], best[kept, None], label[kept, None].float()], 1))
    return found


def mean_average_precision(facts: NDArray[Any]) -> float:
    """COCO's mAP at IoU 0.50 to 0.95 by torchmetrics; 0 where there is no box at all.

    Args:
        facts: Of each image, as `Detection.judge` gives them, [N, 600 + 5 M].
    """
    from torchmetrics.detection import MeanAveragePrecision

    metric: Any = MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")
    table = torch.from_numpy(np.ascontiguousarray(facts, dtype=np.float32))
    for found, boxes in zip(table[:, : 6 * _KEPT].reshape(-1, _KEPT, 6), table[:, 6 * _KEPT :], strict=True):
        found, there = found[found[:, 5] > 0], boxes.reshape(-1, 5)
        there = there[there[:, 4] > 0]
        said = {"boxes": found[:, :4], "scores": found[:, 4], "labels": found[:, 5].long()}
        metric.update([said], [{"boxes": there[:, :4], "labels": there[:, 4].long()}])
    return max(float(metric.compute()["map"]), 0.0)


def _losses(output: Any, targets: torch.Tensor, smoothing: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each image, summed over its default boxes, and how many of these are matched: [N] each."""
    logits, said, anchors = (output[name].float() for name in ("cls_logits", "bbox_regression", "anchors"))
    matches = torch.stack([_match(boxes, anchors) for boxes in targets])  # [N, A]
    matched = matches >= 0
    own = targets.gather(1, matches.clamp_min(0)[..., None].expand(-1, -1, 5))
    offsets = functional.smooth_l1_loss(said[matched], _encode(own[..., :4], anchors)[matched], reduction="none")
    moved = torch.zeros_like(logits[..., 0]).masked_scatter(matched, offsets.sum(1))
    labels = torch.where(matched, own[..., 4].long(), 0)
    classes = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
    ).view_as(labels)
    background = classes.detach().masked_fill(matched, -math.inf)
    rank = background.argsort(1, descending=True).argsort(1)
    hard = rank < _NEGATIVES * matched.sum(1, keepdim=True)
    return (moved + classes * (matched | hard)).sum(1), matched.sum(1)


def _match(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """For each default box the box [M, 5] that it stands for, -1 for none: by IoU, and the best one for each box."""
    from torchvision.ops import box_iou

    there = boxes[boxes[:, 4] > 0]  # they stand before those that only fill the table
    if not len(there):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    overlap = box_iou(there[:, :4].to(anchors.dtype), anchors)
    best, match = overlap.max(0)
    match = torch.where(best >= _MATCH, match, -1)
    match[overlap.argmax(1)] = torch.arange(len(there), device=anchors.device)
    return match


def _encode(boxes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Offsets [N, A, 4] of centre and size from default boxes [A, 4] to boxes [N, A, 4]."""
    (centre, size), (start, unit) = _centred(boxes), _centred(anchors)
    moved = torch.cat([(centre - start) / unit, (size / unit).clamp_min(1e-12).log()], -1)
    return moved * moved.new_tensor(_WEIGHTS)


def _decode(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The inverse of `_encode`."""
    start, unit = _centred(anchors)
    moved = offsets / offsets.new_tensor(_WEIGHTS)
    centre, size = moved[..., :2] * unit + start, moved[..., 2:].clamp(max=_FARTHEST).exp() * unit
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def _centred(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def _areas(boxes: NDArray[Any]) -> NDArray[Any]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


TASKS.register("detection", Detection())
