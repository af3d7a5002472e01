"""Sub-networks to measure: spread over the whole range of MACs, from even to very uneven."""

import random

from autoslim.costs._base import make_cost
from autoslim.graph import ChannelGraph, Group
from autoslim.widths import Widths

_UNEVEN = (0.0, 0.3, 0.6, 1.2)  # how far apart groups' shares of their width may lie
_HALVINGS = 16
_ANY = 0.25  # share of the networks whose widths are any whole atoms, as a uniform network's are


def draw_widths(graph: ChannelGraph, count: int, *, seed: int = 0, lowest: float = 0.05) -> list[Widths]:
    """Draws sub-networks, one from each of `count` equal slices of the range of MACs, in random order.

    Each group's share of its channels lies around one level, by an amount drawn anew for each network; the level is
    then found that gives the MACs asked for. Three in four have candidates for widths, the others any whole atoms, as
    a uniform network has: kernels mind.

    Args:
        graph: The network's.
        count: How many.
        seed: Of all that is random.
        lowest: The least MACs, as a share of the whole network's; what is below the narrowest becomes the narrowest.

    >>> import torch; from torch import nn; from autoslim import trace_channels
    >>> model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 2, 1))
    >>> graph = trace_channels(model, torch.zeros(1, 3, 8, 8))
    >>> [widths["1"] for widths in draw_widths(graph, 4)]
    [16, 48, 48, 56]
    """
    rng, cost = random.Random(seed), make_cost("macs", graph)
    whole = cost(graph.max_widths())
    shares = [lowest + (1 - lowest) * (index + rng.random()) / count for index in range(count)]
    rng.shuffle(shares)
    drawn: list[Widths] = []
    for share in shares:
        uneven, whole_atoms = rng.choice(_UNEVEN), rng.random() < _ANY
        offsets = [uneven * (rng.random() - 0.5) for _ in graph.groups]

        def at(level: float, offsets: list[float] = offsets, whole_atoms: bool = whole_atoms) -> Widths:
            return _at_shares(graph, [level + offset for offset in offsets], whole_atoms)

        low, high = -1.0, 2.0
        for _ in range(_HALVINGS):
            level = (low + high) / 2
            low, high = (level, high) if cost(at(level)) < share * whole else (low, level)
        drawn.append(at(high))
    return drawn


def _at_shares(graph: ChannelGraph, shares: list[float], whole_atoms: bool) -> Widths:
    """Each group's width that is nearest to its share: of its candidates, or of all whole atoms above the lowest."""

    def nearest(group: Group, share: float) -> int:
        if whole_atoms:
            return max(group.fit(share), group.candidates[0])
        return min(group.candidates, key=lambda width: abs(width - share * group.size))

    return Widths({group.name: nearest(group, share) for group, share in zip(graph.groups, shares, strict=True)})
