"""Augmentations by name: what timm's transforms make of an image, before it becomes numbers."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from autoslim.data._images import cover
from autoslim.data._listing import Shape
from autoslim.errors import DataError

PAD = 8  # a crop may leave the image by an eighth of its side

Simple = Literal["none", "flip", "crop", "crop+flip"]
Augment = Literal["none", "flip", "crop", "crop+flip", "imagenet", "mobile", "randaugment"]

# Principal components of ImageNet's colours in [0, 1], and the deviation along each.
_COLOURS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_SPREAD = np.array([0.2175, 0.0188, 0.0045])
_LIGHT = 0.1  # of it, drawn

_SETTINGS: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": (0.08, 1.0), "color_jitter": 0.4},
    "mobile": {"scale": (0.25, 1.0), "color_jitter": 0.4},  # crops keep more: small networks underfit
    # mmax9: from 10 on timm asks Pillow for images of no bits, which it refuses
    "randaugment": {"scale": (0.08, 1.0), "auto_augment": "rand-m9-mstd0.5-mmax9-inc1"},
}


WHOLE = frozenset(_SETTINGS)  # these cut their crops out of whole pictures


class TimmTransform:
    """timm's training transform of that name, up to the image of the input size: random resized crop, flip, colours.

    "imagenet": crops of 8 to 100% of the area, colour jitter 0.4. "mobile": crops of 25 to 100%. "randaugment": crops
    and RandAugment, magnitude 9. "mobile" also changes the light, as the paper's code does for mobile networks.
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
        if name == "mobile" and shape[0] == 3:
            self._steps.append(change_light)

    def __call__(self, image: Image.Image) -> Image.Image:
        for step in self._steps:
            image = step(image)
        return image


def change_light(image: Image.Image) -> Image.Image:
    """All pixels moved by one draw along the axes of ImageNet's colours (Krizhevsky et al. 2012, section 4.1)."""
    move = _COLOURS @ (_SPREAD * np.random.normal(0, _LIGHT, 3))
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + 255 * move), 0, 255).astype(np.uint8))


Shift = tuple[int, int, bool]  # pixels down and right, and whether mirrored then


class ShiftTransform:
    """The image scaled to cover the input size, shifted by up to an eighth of its side, and perhaps mirrored."""

    def __init__(self, name: str, shape: Shape) -> None:
        self._size, self._crops, self._flips = (shape[2], shape[1]), "crop" in name, "flip" in name

    def __call__(self, image: Image.Image) -> Image.Image:
        return self.apply(image, self.draw())

    def draw(self) -> Shift:
        """How an image is moved, from Python's global generator."""
        width, height = self._size
        down, right = (
            random.randint(0, 2 * (side // PAD)) - side // PAD if self._crops else 0 for side in (height, width)
        )
        return down, right, self._flips and random.random() < 0.5

    def apply(self, image: Image.Image, shift: Shift) -> Image.Image:
        image = image if image.size == self._size else cover(image, self._size)
        rows, columns = shift_places([shift], *self._size[::-1])
        assert rows is not None
        assert columns is not None
        return Image.fromarray(np.asarray(image)[rows[0]][:, columns[0]])


def shift_places(
    shifts: Sequence[Shift | None], height: int, width: int
) -> "tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[None, None]":
    """The row and the column that come to stand at each place, [B, H] and [B, W]; None where nothing was shifted."""
    known = [shift for shift in shifts if shift is not None]
    if len(known) < len(shifts):
        return None, None
    down, right, mirrored = (np.array(each) for each in zip(*known, strict=True))
    rows, columns = reflect(height, down), reflect(width, right)
    return rows, np.where(mirrored[:, None], columns[:, ::-1], columns)


def reflect(side: int, shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions 0 to side - 1, shifted and reflected at both ends: shape [B, side]."""
    return (side - 1) - np.abs((side - 1) - np.abs(np.arange(side) + shift[:, None]))


def make_transform(name: str, shape: Shape) -> Callable[[Image.Image], Image.Image] | None:
    """What an augmentation does to one image; it draws from Python's, numpy's and torch's global generators."""
    if name == "none":
        return None
    return ShiftTransform(name, shape) if name in get_args(Simple) else TimmTransform(name, shape)


def make_eraser(share: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """timm's random erasing (Zhong et al. 2017): in `share` of the images a rectangle [C, h, w] becomes noise."""
    from timm.data.random_erasing import RandomErasing  # loads torchvision: seconds

    return RandomErasing(share, mode="pixel", device="cpu")


def check_augment(name: str) -> None:
    """Raises DataError for a name that is none of them."""
    if name not in get_args(Augment):
        raise DataError(f"Loader: augment {name!r}; expected one of {', '.join(get_args(Augment))}.")
