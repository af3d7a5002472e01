"""Targets that are more than labels (masks, boxes, numbers): brought to the input size with their images, and moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.data._images import plan_cover
from autoslim.data._listing import Listing, RawTarget, Shape, describe_size, fits_memory
from autoslim.errors import DataError
from autoslim.tasks import Fit, Targets

_CHUNK = 256  # targets that are read at a time
_FEW = 10  # images of a stratum below which it is no kind of its own


@dataclass(frozen=True, eq=False)
class Told:
    """The targets of N images, always in memory.

    Attributes:
        kind: What they are.
        values: [N, ...], of `Targets.join`.
    """

    kind: Targets
    values: torch.Tensor

    def take(self, indices: "torch.Tensor | NDArray[np.int64] | Sequence[int]") -> "Told":
        """Those at `indices`, in their order, copied."""
        return Told(self.kind, self.values[torch.as_tensor(indices, dtype=torch.int64)])

    def moved(
        self, chosen: NDArray[np.int64], rows: NDArray[np.int64] | None, columns: NDArray[np.int64] | None
    ) -> torch.Tensor:
        """A batch of them; `rows` and `columns` as in `Targets.move`, None where the images stayed as they are."""
        values = self.values[torch.from_numpy(chosen)]
        return values if rows is None or columns is None else self.kind.move(values, rows, columns)


def fit_targets(where: str, listing: Listing, shape: Shape, kind: Targets) -> Told:
    """The targets of all images of a listing, which are brought to `shape` (C, H, W) as `cover` brings the images.

    Raises:
        DataError: They don't go together, or don't fit into memory.
    """
    assert listing.told is not None
    fitted: list[NDArray[Any]] = []
    for start in range(0, len(listing), _CHUNK):
        fitted += [_fit(raw, shape, kind) for raw in listing.told(listing.rows[start : start + _CHUNK].tolist())]
        bytes_each = -(-sum(target.nbytes for target in fitted) // len(fitted))
        if not fits_memory(len(listing), (1, 1, bytes_each)):
            raise DataError(
                f"{where}: the targets of {len(listing)} images would take "
                f"{describe_size(len(listing), (1, 1, bytes_each))}; expected what fits into memory beside the images. "
                "Choose a smaller --input, or fewer images."
            )
    try:
        return Told(kind, kind.join(fitted))
    except ValueError as error:
        raise DataError(f"{where}: {error}. Correct the dataset.") from error


def _fit(raw: RawTarget, shape: Shape, kind: Targets) -> NDArray[Any]:
    target, (height, width) = raw
    size = shape[1:]
    if (height, width) == size:
        return kind.fit(target, Fit(size, (0, 0), size))
    (to_width, to_height), (left, top) = plan_cover((width, height), (size[1], size[0]))
    return kind.fit(target, Fit((to_height, to_width), (top, left), size))


def merge_strata(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Strata that can be divided again and again: those with fewer than ten images are one, or part of the largest."""
    values, sizes = np.unique(labels, return_counts=True)
    merged = np.where(np.isin(labels, values[sizes < _FEW]), -1, labels)
    if 0 < (merged == -1).sum() < _FEW:
        merged[merged == -1] = values[sizes.argmax()] if sizes.max() >= _FEW else -1
    return merged
