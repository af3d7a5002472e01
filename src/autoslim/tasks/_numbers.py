"""Targets that are numbers: what a regression predicts of each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim.tasks._base import Fit

ALL_AUGMENTS = ("none", "flip", "crop", "crop+flip", "imagenet", "mobile", "randaugment")


@dataclass(frozen=True)
class Numbers:
    """One number for each image, or a row of K of them, that stay what they are whatever is done to the image.

    Attributes:
        augments: Leave out what changes them: a mirrored image has another angle.
        at_once: See `Targets`.
    """

    augments: tuple[str, ...] = ALL_AUGMENTS
    at_once: int = 250

    def read(self, target: Any, size: tuple[int, int]) -> NDArray[np.float32]:
        """Shape [K]."""
        try:
            numbers = np.asarray(target, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"its target is {type(target).__name__}; expected a number or a row of numbers") from error
        if not len(numbers) or not np.isfinite(numbers).all():
            raise ValueError(f"its target is {numbers}; expected finite numbers")
        return numbers.astype(np.float32)

    def stratum(self, target: NDArray[Any]) -> int:
        return 0

    def outputs(self, target: NDArray[Any]) -> int:
        return len(target)

    def fit(self, target: NDArray[Any], fit: Fit) -> NDArray[Any]:
        return target

    def join(self, targets: Sequence[NDArray[Any]]) -> torch.Tensor:
        """Float32 [N, K]."""
        lengths = {len(target) for target in targets}
        if len(lengths) > 1:
            raise ValueError(f"images have {sorted(lengths)} numbers; expected as many for each")
        return torch.from_numpy(np.stack(targets))

    def move(self, targets: torch.Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> torch.Tensor:
        return targets
