"""Heuristics across the network: every group equally wide, or wider towards the end, the beginning, or both.

These are what people choose by hand (AutoSlim, figure 1, first row). A shape is about channels, not about shares of
what a network has: of a network that gets wider towards its end, `flat` cuts the end most.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from autoslim.errors import ConfigError
from autoslim.search._base import METHODS, Space
from autoslim.search._shaped import ShapedSearch


@dataclass(frozen=True, kw_only=True)
class DepthShape(ShapedSearch):
    """A shape that follows from where a group stands between the first, 0, and the last, 1."""

    @abstractmethod
    def profile(self, depth: float) -> float:
        """How wide a group at `depth`, 0 to 1, should be; above 0."""

    def weights(self, space: Space) -> Mapping[str, float]:
        last = max(len(space.free) - 1, 1)
        return {group: self.profile(number / last) for number, group in enumerate(space.free)}


@dataclass(frozen=True, kw_only=True)
class Flat(DepthShape):
    """The same number of channels in every group, as far as it has so many."""

    def profile(self, depth: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class SlopedShape(DepthShape):
    """A shape whose widest place is some times as wide as its narrowest; widths change linearly with depth."""

    times: float = 4.0
    """How many times as wide as the narrowest place the widest is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.times <= 1000:
            raise ConfigError(
                f"{type(self).__name__}: times={self.times}; expected above 1, at most 1000. Pass for instance 4."
            )


@dataclass(frozen=True, kw_only=True)
class RampUp(SlopedShape):
    """Deeper is wider.

    >>> RampUp(times=3.0).profile(0), RampUp(times=3.0).profile(1)
    (1.0, 3.0)
    """

    def profile(self, depth: float) -> float:
        return 1 + (self.times - 1) * depth


@dataclass(frozen=True, kw_only=True)
class RampDown(SlopedShape):
    """Deeper is narrower."""

    def profile(self, depth: float) -> float:
        return 1 + (self.times - 1) * (1 - depth)


@dataclass(frozen=True, kw_only=True)
class Hourglass(SlopedShape):
    """Wide at both ends, narrow in the middle."""

    def profile(self, depth: float) -> float:
        return 1 + (self.times - 1) * abs(2 * depth - 1)


METHODS.register("flat", Flat)
METHODS.register("ramp-up", RampUp)
METHODS.register("ramp-down", RampDown)
METHODS.register("hourglass", Hourglass)
