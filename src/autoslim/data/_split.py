"""Decoded images with their labels and targets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.data._encoded import Encoded
from autoslim.data._listing import File, Listing, Shape
from autoslim.data._pieces import Pieces
from autoslim.data._told import Told
from autoslim.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels, decoded.

    Attributes:
        images: uint8 [N, C, H, W], contiguous.
        labels: int64 [N]; the stratum of each image, where there are other targets.
        rows: Where each image stands in its source, shape [N]; by default 0 to N - 1.
        told: The targets, where these are more than labels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    told: Told | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if (images.dtype, images.dim(), labels.dtype) != (torch.uint8, 4, torch.int64) or not images.is_contiguous():
            raise DataError(
                f"Split: images {images.dtype} {list(images.shape)}, labels {labels.dtype} {list(labels.shape)}; "
                "expected contiguous uint8 [N, C, H, W] and int64 [N]. Convert them first."
            )
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"Split: {len(images)} images but labels of shape {list(labels.shape)}; expected [{len(images)}]. "
                "Give each image one label."
            )
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: "torch.Tensor | NDArray[np.int64] | Sequence[int]") -> "Split":
        """The images at `indices`, in their order, copied."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        told = None if self.told is None else self.told.take(chosen)
        return Split(self.images[chosen], self.labels[chosen], self.rows[chosen.numpy()], told)

    @property
    def pieces(self) -> Pieces | None:
        """None: each image is at hand."""
        return None

    def encoded(self) -> Encoded:
        """The same images for worker processes, which share this one's memory."""
        return Encoded(Listing(np.arange(len(self)), self.labels.numpy(), _Pixels(self.images)), self.shape, self.told)

    def fingerprint(self) -> list[Any]:
        """What tells these images from others: all of them, and their labels."""
        told = [] if self.told is None else [self.told.values.numpy()]
        return [list(self.images.shape), self.images.numpy(), self.labels.numpy(), *told]

    def content(self, index: int) -> bytes:
        """One image's pixels, and its target."""
        told = b"" if self.told is None else self.told.values[index].numpy().tobytes()
        return self.images[index].numpy().tobytes() + told


@dataclass(frozen=True)
class _Pixels:
    """Images uint8 [N, C, H, W] as files."""

    images: torch.Tensor

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        pixels = self.images.numpy().transpose(0, 2, 3, 1)
        return [(f"image {row}", pixels[row].squeeze(2) if pixels.shape[3] == 1 else pixels[row]) for row in rows]
