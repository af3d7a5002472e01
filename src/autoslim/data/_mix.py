"""Mixup and cutmix: each image of a batch is mixed with its neighbour, and the labels in the same proportion."""

from dataclasses import dataclass

import numpy as np
import torch

from autoslim.data._random import sequence_of

_CUT = 0.5  # share of the batches that are cut, not blended, where both are asked for (timm's mixup_switch_prob)


@dataclass(frozen=True)
class Mix:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), one draw for a whole batch.

    Images 0 and 1 are mixed with each other, 2 and 3, and so on, the order of a batch being by chance already. So
    processes that share a batch need none of each other's images, as long as they divide it between pairs.

    Attributes:
        mixup: Alpha of the beta distribution that the share is drawn from; 0: no mixup.
        cutmix: Likewise.
        num_classes: The length of a mixed label.
    """

    mixup: float
    cutmix: float
    num_classes: int

    def apply(self, images: torch.Tensor, labels: torch.Tensor, *numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed images [B, C, H, W], and labels float32 [B, classes]: what each image has of each class.

        >>> x, y = Mix(1.0, 0.0, 2).apply(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), 7)
        >>> y.sum(1), torch.equal(y[0].flip(0), y[1])
        (tensor([1., 1.]), True)

        Args:
            images: float32 [B, C, H, W]; the first one is the first of a pair.
            labels: int64 [B].
            numbers: That the draw follows from: seed and step.
        """
        draw = np.random.default_rng(sequence_of("mix", *numbers))
        cut = draw.random() < (0.0 if self.cutmix == 0 else _CUT if self.mixup > 0 else 1.0)
        alpha = self.cutmix if cut else self.mixup
        share = float(draw.beta(alpha, alpha))
        partner = torch.arange(len(labels)) ^ 1
        partner[partner >= len(labels)] = len(labels) - 1  # the last of an odd number stays as it is
        if cut:
            rows, columns = (_side(draw, side, share) for side in images.shape[2:])
            mixed = images.clone(memory_format=torch.preserve_format)
            mixed[:, :, rows, columns] = images[partner][:, :, rows, columns]
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            share = 1 - area / (images.shape[2] * images.shape[3])
        else:
            mixed = images * share + images[partner] * (1 - share)
        one_hot = torch.nn.functional.one_hot(labels, self.num_classes).float()
        return mixed, one_hot * share + one_hot[partner] * (1 - share)


def _side(draw: np.random.Generator, side: int, share: float) -> slice:
    """Where the cut lies along one side: about `1 - share` of the area, less what sticks out of the image."""
    length, middle = int(side * (1 - share) ** 0.5), int(draw.integers(side))
    return slice(max(middle - length // 2, 0), min(middle + (length + 1) // 2, side))
