"""Augmentations by name: what timm's transforms make of an image, before it becomes numbers."""

import random
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from autoslim.data._images import cover
from autoslim.data._listing import Shape
from autoslim.errors import DataError

PAD = 8  # a crop may leave the image by an eighth of its side

Simple = Literal["none", "crop", "crop+flip"]
Augment = Literal["none", "crop", "crop+flip", "imagenet", "mobile", "randaugment"]

_SETTINGS: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": (0.08, 1.0), "color_jitter": 0.4},
    "mobile": {"scale": (0.25, 1.0), "color_jitter": 0.4},  # crops keep more: small networks underfit
    "randaugment": {"scale": (0.08, 1.0), "auto_augment": "rand-m9-mstd0.5-inc1"},
}


class TimmTransform:
    """timm's training transform of that name, up to the image of the input size: random resized crop, flip, colours.

    "imagenet": crops of 8 to 100% of the area, colour jitter 0.4. "mobile": crops of 25 to 100%. "randaugment": crops
    and RandAugment, magnitude 9.
    """

    def __init__(self, name: str, shape: Shape) -> None:
        from timm.data.transforms_factory import transforms_imagenet_train  # loads torchvision: seconds

        if shape[1] != shape[2]:
            raise DataError(
                f"Augmentation {name!r} makes square images; expected an input of equal height and width, this one is "
                f"{shape[1]}x{shape[2]}. Choose a square --input, or --augment crop+flip."
            )
        steps: Any = transforms_imagenet_train(img_size=shape[1], separate=True, **_SETTINGS[name])
        self._steps: list[Any] = [*steps[0].transforms, *steps[1].transforms]

    def __call__(self, image: Image.Image) -> Image.Image:
        for step in self._steps:
            image = step(image)
        return image


class ShiftTransform:
    """The image scaled to cover the input size, shifted by up to an eighth of its side, and perhaps mirrored."""

    def __init__(self, name: str, shape: Shape) -> None:
        self._size, self._flips = (shape[2], shape[1]), name == "crop+flip"

    def __call__(self, image: Image.Image) -> Image.Image:
        image = image if image.size == self._size else cover(image, self._size)
        (width, height), pixels = self._size, np.asarray(image)
        down, right = (random.randint(0, 2 * (side // PAD)) for side in (height, width))
        edges = [(height // PAD,) * 2, (width // PAD,) * 2, (0, 0)][: pixels.ndim]
        image = Image.fromarray(np.pad(pixels, edges, mode="reflect")[down : down + height, right : right + width])
        return ImageOps.mirror(image) if self._flips and random.random() < 0.5 else image


def make_transform(name: str, shape: Shape) -> Callable[[Image.Image], Image.Image] | None:
    """What an augmentation does to one image; it draws from Python's, numpy's and torch's global generators."""
    if name == "none":
        return None
    return ShiftTransform(name, shape) if name in get_args(Simple) else TimmTransform(name, shape)


def check_augment(name: str) -> None:
    """Raises DataError for a name that is none of them."""
    if name not in get_args(Augment):
        raise DataError(f"Loader: augment {name!r}; expected one of {', '.join(get_args(Augment))}.")
