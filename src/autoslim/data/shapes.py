"""`shapes-masks` and `shapes-boxes`: drawn discs, squares and triangles, with a mask or with boxes; no download.

They are drawn from their number alone, so the same ones come everywhere. `shapes-masks:200` draws 200 images,
`shapes-masks:200,96` draws them 96 pixels high and wide.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from autoslim.data._base import TARGET_SOURCES
from autoslim.data._datasets import list_datasets
from autoslim.data._listing import Found
from autoslim.data._random import sequence_of
from autoslim.errors import DataError
from autoslim.tasks import Targets

CLASSES = ("background", "disc", "square", "triangle")
_COUNT, _FEWEST, _SIDE, _LEAST = 600, 3, 64, 16
_MOST = 3  # shapes in an image
_TRIES = 10  # places that are tried for one that touches no other


class DrawnShapes:
    """A dataset as torchvision's are: (image, mask) or (image, {"boxes", "labels"}), by number.

    >>> image, target = DrawnShapes(5, boxes=True)[0]
    >>> image.size, sorted(target)
    ((64, 64), ['boxes', 'labels'])

    Args:
        count: Images.
        side: Their height and width, in pixels.
        boxes: Whether targets are boxes; else masks, an image of Pillow's in mode L.
    """

    classes = CLASSES

    def __init__(self, count: int, side: int = _SIDE, *, boxes: bool = False) -> None:
        self._count, self._side, self._boxes = count, side, boxes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[Image.Image, Any]:
        if not 0 <= number < self._count:
            raise IndexError(number)
        image, mask, placed = _draw(number, self._side)
        if not self._boxes:
            return image, mask
        boxes = np.array([box for box, _ in placed], dtype=np.float32)
        return image, {"boxes": boxes, "labels": np.array([label for _, label in placed], dtype=np.int64)}


def _draw(number: int, side: int) -> tuple[Image.Image, Image.Image, list[tuple[tuple[int, int, int, int], int]]]:
    """An image, its mask, and the corners and class of each shape in it: one to three, none touching another."""
    rng = np.random.default_rng(sequence_of("shapes", number, side))
    noise = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    image, mask = Image.fromarray(noise), Image.new("L", (side, side))
    placed: list[tuple[tuple[int, int, int, int], int]] = []
    for _ in range(int(rng.integers(1, _MOST + 1))):
        label, size = int(rng.integers(1, len(CLASSES))), int(rng.integers(side // 4, side // 2))
        for left, top in rng.integers(0, side - size, (_TRIES, 2)).tolist():
            box = (left, top, left + size, top + size)
            if all(_apart(box, other) for other, _ in placed):
                colour = tuple(rng.integers(120, 256, 3).tolist())
                _fill(image, box, label, colour)
                _fill(mask, box, label, label)
                placed.append((box, label))
                break
    return image, mask, placed


def _fill(image: Image.Image, box: tuple[int, int, int, int], label: int, colour: Any) -> None:
    left, top, right, bottom = box
    pen, inside = ImageDraw.Draw(image), (left, top, right - 1, bottom - 1)
    if CLASSES[label] == "disc":
        pen.ellipse(inside, fill=colour)
    elif CLASSES[label] == "square":
        pen.rectangle(inside, fill=colour)
    else:
        pen.polygon([(left, bottom - 1), ((left + right) // 2, top), (right - 1, bottom - 1)], fill=colour)


def _apart(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]


def _list_shapes(name: str, place: str, targets: Targets) -> Found:
    numbers = re.fullmatch(r"(\d+)?(?:,(\d+))?", place)
    count, side = (int(numbers[1] or _COUNT), int(numbers[2] or _SIDE)) if numbers else (0, 0)
    if count < _FEWEST or side < _LEAST:
        raise DataError(
            f"{name}:{place}: expected a number of images from {_FEWEST} and a side from {_LEAST}. Write for "
            f"instance {name}:200,64."
        )
    return list_datasets(name, DrawnShapes(count, side, boxes=name == "shapes-boxes"), None, targets)


@contextmanager
def list_masks(place: str, targets: Targets) -> Generator[Found, None, None]:
    """Lists drawn shapes with masks; they come without a test split."""
    yield _list_shapes("shapes-masks", place, targets)


@contextmanager
def list_boxes(place: str, targets: Targets) -> Generator[Found, None, None]:
    """Lists drawn shapes with boxes; they come without a test split."""
    yield _list_shapes("shapes-boxes", place, targets)


TARGET_SOURCES.register("shapes-masks", list_masks)
TARGET_SOURCES.register("shapes-boxes", list_boxes)
