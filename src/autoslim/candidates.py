"""The widths a group may take: about 12 levels between a lowest share and the whole, in multiples hardware likes."""

import math

import numpy as np

_LEVELS, _LOWEST = 12, 0.15  # candidates per group, and the narrowest as a share of the widest (paper, section 4)
_DIVISOR = 8


def channel_unit(size: int, atom: int, *, divisor: int | None = None) -> int:
    """The multiple of channels that suits a group: whole atoms, and whole `divisor`s.

    Without a `divisor` it is 8 where the group allows it: below 32 channels the largest power of two that leaves four
    levels, and whole atoms alone where both together would leave less than two.

    >>> channel_unit(64, 1), channel_unit(16, 1), channel_unit(58, 29), channel_unit(58, 29, divisor=2)
    (8, 4, 29, 58)
    """
    if divisor is not None:
        return math.lcm(atom, divisor)
    unit = math.lcm(atom, min(_DIVISOR, 2 ** int(math.log2(max(size // 4, 1)))))
    return unit if unit <= size // 2 else atom


def make_candidates(size: int, atom: int, *, divisor: int | None = None, least: int | None = None) -> tuple[int, ...]:
    """The widths a group may take: about 12 levels, multiples of its unit, and `size` last.

    Args:
        size: Channels at full width.
        atom: Channels in the smallest removable unit; all candidates are multiples of it.
        divisor: All candidates but `size` are multiples of it; default 8 where the group allows it (`channel_unit`).
        least: No candidate is below it; default 0.15 of the size.

    Returns:
        Ascending widths; `size` alone where no multiple of the unit lies from `least` to below it.

    >>> make_candidates(32, 1)
    (8, 16, 24, 32)
    >>> make_candidates(1280, 1)
    (192, 288, 392, 488, 584, 688, 784, 888, 984, 1080, 1184, 1280)
    >>> make_candidates(24, 1, divisor=16), make_candidates(24, 1, least=10), make_candidates(24, 1, divisor=32)
    ((16, 24), (12, 16, 20, 24), (24,))
    """
    unit = channel_unit(size, atom, divisor=divisor)
    lowest = max(unit, math.ceil((_LOWEST * size if least is None else least) / unit) * unit)
    levels = min(_LEVELS, (size - lowest) // unit + 1)
    steps = np.linspace(lowest, size, levels) if levels > 1 else np.array([lowest])
    return tuple(sorted({min(round(float(step) / unit) * unit, size) for step in steps} | {size}))
