"""What the report's pictures share: a figure is plotly's plain data and layout, with its words beside it.

One colour is one budget, everywhere on the page; a filled circle is AutoSlim, a hollow diamond the uniform baseline,
grey is the user's own network. Plotly reads a small HTML in every label, so names are escaped before they go in.
"""

import html
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours for all kinds of colour vision, without those too faint on white or on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY, FAINT, CLEAR = "#808890", "rgba(128,136,144,0.28)", "rgba(0,0,0,0)"
_TOOLS_LEFT_OUT = ["zoom", "pan", "select", "lasso", "autoscale"]  # what is left: save, closer, farther, back


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the page.

    Attributes:
        name: Its id in the page.
        title: Its heading.
        alt: What it shows, in words, for those who can't see it.
        caption: How to read it.
        figure: Plotly's data and layout; None if there is nothing to draw.
        min_width: Pixels it needs; a narrower page scrolls it.
    """

    name: str
    title: str
    alt: str
    caption: str
    figure: dict[str, Any] | None
    min_width: int = 0


def colour(index: int) -> str:
    """The colour of the budget at `index`."""
    return COLOURS[index % len(COLOURS)]


def layout_of(height: int, **more: Any) -> dict[str, Any]:
    """What all pictures share: no background, a grey that reads on light and dark, dragging left to the page."""
    axes = {
        name: {"automargin": True, "gridcolor": FAINT, "zerolinecolor": FAINT, "fixedrange": False} | more[name]
        for name in ("xaxis", "yaxis")
    }
    return {
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 36, "t": 40, "b": 8},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": GREY},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "dragmode": False,
        "modebar": {
            "orientation": "v",
            "bgcolor": CLEAR,
            "color": FAINT,
            "activecolor": GREY,
            "remove": _TOOLS_LEFT_OUT,
        },
        **axes,
    }


def ticks(labels: list[str]) -> dict[str, Any]:
    return {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": labels, "zeroline": False}


def safe(name: str) -> str:
    """A name for plotly's labels, which read a small HTML; quotes stay, as plotly knows no entity for them."""
    return html.escape(name, quote=False)
