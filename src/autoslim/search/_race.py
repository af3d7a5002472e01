"""Racing: sub-networks that have lost drop out before all images are seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from autoslim.search._base import Sample
from autoslim.search._path import values_of


@dataclass
class Race:
    """A referee: judges sub-networks of one step on the images seen so far.

    What is compared is the harm, (x - base) with x an image's loss (or error), per saving where it is `weighed`, as
    paired differences on the same images. A sub-network drops out when it is surely worse than the best, and surely
    does harm at all (two that do none are as good as each other: the larger saving stays). When all that are left are
    surely closer to the best than the indifference margin, the largest saving goes on alone.

    "Surely" is a normal confidence bound. What may go wrong in all, `risk`, is shared over the looks (the k-th gets
    6 / (pi k)^2 of it) and over the sub-networks. Errors are 0 or 1 an image, and may differ on none of those seen so
    far: the bound takes one image more to have changed.

    Attributes:
        base: Per image, the value before the step; shape [images].
        savings: Per sub-network, above 0; shape [trials].
        metric: "loss" or "accuracy": whose value an image has.
        risk: Chance that a sub-network drops out though it was the best.
        margin: Indifference, as a share of the best's harm.
        weighed: Whether harms are divided by savings, and one below 0 counts as none.
        leader: Values [images] and saving of a sub-network that has seen all images, and must be beaten.
    """

    base: NDArray[np.float64]
    savings: NDArray[np.float64]
    metric: str
    risk: float
    margin: float
    weighed: bool
    leader: tuple[NDArray[np.float64], float] | None = None
    looks: int = field(default=0, init=False)

    def __call__(self, alive: Sequence[int], samples: Sequence[Sample]) -> list[int]:
        self.looks += 1
        chance = self.risk * 6 / (math.pi * self.looks) ** 2 / max(len(self.savings) - (self.leader is None), 1)
        sure = NormalDist().inv_cdf(1 - min(max(chance, 1e-12), 0.5))
        seen = len(samples[0])
        values = [values_of(sample, self.metric) for sample in samples]
        savings = [float(self.savings[at]) for at in alive]
        if self.leader is not None:
            values.append(self.leader[0][:seen])
            savings.append(self.leader[1])
        left = self._left(np.stack(values) - self.base[:seen], np.array(savings), sure)
        return [alive[at] for at in left if at < len(alive)]

    def _left(self, rises: NDArray[np.float64], savings: NDArray[np.float64], sure: float) -> list[int]:
        """Who may still be the best; shapes [racers, images] and [racers]."""
        if not np.isfinite(rises).all():  # nothing is sure of what is not a number: all go on to the end
            return list(range(len(savings)))
        units = 1 / savings if self.weighed else np.ones(len(savings))  # what one image in error is as a harm
        harms = rises * units[:, None]
        floor = 0.0 if self.weighed else -math.inf
        means, errors = harms.mean(1), sure * self._errors(harms, units)
        best = min(range(len(savings)), key=lambda at: (max(means[at], floor), -savings[at], at))
        behind = harms - harms[best]
        gaps, errors_of_gaps = behind.mean(1), sure * self._errors(behind, np.maximum(units, units[best]))
        lost = (gaps > errors_of_gaps) & (means - errors > floor)
        none = means + errors <= floor
        lost |= none & none[best] & (savings < savings[best])
        left = [at for at in range(len(savings)) if not lost[at]]
        close = self.margin * max(means[best], 0.0)
        if all(at == best or abs(gaps[at]) + errors_of_gaps[at] <= close for at in left):
            left = [max(left, key=lambda at: (savings[at], -at))]
        return left

    def _errors(self, values: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
        """The standard error of each row's mean; shapes [racers, images] and [racers]."""
        seen = values.shape[1]
        if seen == 1:
            return np.full(len(values), np.inf)
        unseen = units**2 / seen if self.metric == "accuracy" else 0.0
        return np.sqrt((values.var(1, ddof=1) + unseen) / seen)
