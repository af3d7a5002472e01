"""Heuristics inside blocks: the layers within a residual block narrower or wider than what runs between blocks.

A fixed ratio of widths inside to widths outside is how people design blocks (AutoSlim, figure 1, second row): a quarter
in a bottleneck (He et al. 2016, "Deep residual learning"), 6 times as wide in an inverted one (Sandler et al. 2018,
"MobileNetV2"), the same in a plain one. Widths outside keep the proportions that the network was given with.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from autoslim.errors import ConfigError
from autoslim.search._base import METHODS, Space
from autoslim.search._shaped import ShapedSearch


def find_inside(groups: Sequence[str]) -> dict[str, str]:
    """Which groups lie inside a block, each with the group outside that it is compared with.

    A group is named by the module that makes its channels. A block is that path up to its first numbers, "layer2.0" of
    "layer2.0.conv1", or the parent where it has none; what follows is the place in the block. The last of a block's
    groups is what it gives on, the others are inside. But the blocks of a residual stage all add to what the first one
    gives on, and so seem to end one place earlier: a place is outside only if it is the last one wherever it occurs.
    Where a stage lists blocks below a number of its own ("stages.1.blocks.0.mlp.fc1") it is taken for one block.

    Args:
        groups: Names, in the order the network makes them.

    Returns:
        {inside: the last group before it that is outside}. What lies inside before anything is outside is left out,
        and so is everything in a network without blocks.

    >>> find_inside(["stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"])
    {'layer1.0.conv1': 'stem', 'layer1.1.conv1': 'layer1.0.conv2'}
    """
    split = {group: _split(group) for group in groups}
    last = {block: group for group, (block, _) in split.items()}
    within = {place for group, (block, place) in split.items() if last[block] != group}
    found: dict[str, str] = {}
    outside = ""
    for group, (_, place) in split.items():
        if place not in within:
            outside = group
        elif outside:
            found[group] = outside
    return found


def _split(group: str) -> tuple[str, str]:
    """The block and the place in it."""
    match = re.match(r"(?:.*?\.)?\d+(?:\.\d+)*(?=\.|$)", group)
    block = match[0] if match else group.rpartition(".")[0] or group
    return block, group[len(block) :]


@dataclass(frozen=True, kw_only=True)
class BlockShape(ShapedSearch):
    """Inside a block `times` the channels outside; outside, the proportions of the network as it is.

    In a network without blocks nothing is inside, and the shape is that of the network.
    """

    within: ClassVar[tuple[float, float]]  # what `times` may be

    times: float = 1.0
    """How many times as wide a group inside a block is as the one outside before it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.within
        if not low <= self.times <= high:
            raise ConfigError(
                f"{type(self).__name__}: times={self.times}; expected {low:g} to {high:g}. Leave it out for the "
                "default."
            )

    def weights(self, space: Space) -> Mapping[str, float]:
        own = {group: float(space.widest[group]) for group in space.widest}
        return own | {group: self.times * own[outside] for group, outside in find_inside(list(own)).items()}


@dataclass(frozen=True, kw_only=True)
class Bottleneck(BlockShape):
    """Narrower inside blocks than outside."""

    within = (0.01, 1.0)
    times: float = 0.25
    """How many times as wide a group inside a block is as the one outside before it; at most 1."""


@dataclass(frozen=True, kw_only=True)
class WideInside(BlockShape):
    """Wider inside blocks than outside, as inverted bottlenecks are."""

    within = (1.0, 100.0)
    times: float = 6.0
    """How many times as wide a group inside a block is as the one outside before it; at least 1."""


@dataclass(frozen=True, kw_only=True)
class Equal(BlockShape):
    """As wide inside blocks as outside."""

    within = (1.0, 1.0)


METHODS.register("bottleneck", Bottleneck)
METHODS.register("wide-inside", WideInside)
METHODS.register("equal", Equal)
