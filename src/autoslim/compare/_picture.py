"""Pictures of a comparison as plain SVG: means and their spread over the seeds, a colour per family of methods."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoslim.report.style import colour, escape

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BELOW = 760, 420, 52, 24, 16, 46  # of the drawing, in its own units


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method at one budget.

    Attributes:
        x: Its place across; what the axis shows is told by the ticks.
        y: Its mean, in percent.
        spread: The standard deviation; 0: no bar.
        tone: The number of its colour.
        name: Written beside it; "" for none.
        told: Shown on hover.
        hollow: Whether only its outline is drawn.
    """

    x: float
    y: float
    spread: float
    tone: int
    name: str
    told: str
    hollow: bool = False


def draw_points(
    points: Sequence[Point],
    *,
    ticks: Sequence[tuple[float, str]],
    title: str,
    lines: Sequence[Sequence[Point]] = (),
) -> str:
    """An SVG of test accuracy, in percent, against something.

    Args:
        points: At least one.
        ticks: Places across, ascending, and their names.
        title: Of the axis across.
        lines: Points that are joined.
    """
    low, high = min(p.y - p.spread for p in points), max(p.y + p.spread for p in points)
    room = 0.08 * (high - low) or 1.0
    low, high = low - room, high + room
    left, right = min([p.x for p in points] + [ticks[0][0]]), max([p.x for p in points] + [ticks[-1][0]])
    wide = (right - left) or 1.0

    def across(x: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * (x - left) / wide

    def down(y: float) -> float:
        return _TOP + (_HIGH - _TOP - _BELOW) * (high - y) / (high - low)

    bottom = _HIGH - _BELOW
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        for y in _round_numbers(low, high)
    ]
    parts += [
        f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>' for x, name in ticks
    ]
    parts.append(f'<text x="{(_LEFT + _WIDE) / 2}" y="{_HIGH - 8}" text-anchor="middle">{escape(title)}</text>')
    for line in lines:
        path = " ".join(f"{across(p.x):.1f},{down(p.y):.1f}" for p in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour(line[0].tone)}" stroke-width="1"/>')
    for number, p in enumerate(points):
        x, y, tone = across(p.x), down(p.y), colour(p.tone)
        bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{down(p.y - p.spread):.1f}" y2="{down(p.y + p.spread):.1f}" '
        above = -10 if number % 2 else 20
        label = f'<text class="name" x="{x:.1f}" y="{y + above:.1f}" text-anchor="middle">{escape(p.name)}</text>'
        parts.append(
            f"<g><title>{escape(p.told)}</title>"
            + (f'{bar}stroke="{tone}" stroke-width="1"/>' if p.spread else "")
            + f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" stroke="{tone}" stroke-width="1.5" '
            + f'fill="{"var(--card)" if p.hollow else tone}"/>{label if p.name else ""}</g>'
        )
    return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="100%" aria-hidden="true">{"".join(parts)}</svg>'


def _round_numbers(low: float, high: float) -> list[float]:
    """Some five round numbers in between.

    >>> _round_numbers(91.3, 98.9)
    [92, 94, 96, 98]
    """
    size = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= (high - low) / 5)
    return [round(k * step, 9) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
