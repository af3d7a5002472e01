"""The page's looks and its script: files beside this one, with nothing in them that comes from data."""

from pathlib import Path

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_CHART, _PAGE, _TABLES = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("chart.js", "page.js", "tables.js")
)
SCRIPT = f"{_CHART}\n{_PAGE}\n{_TABLES}"
TABLES = f"{_CHART}\n{_TABLES}"  # for a page without pictures that move

COLOURS = 6  # that page.css names --c0 to --c5, for light and for dark


def colour(index: int) -> str:
    """The colour of the budget (or, of several runs, of the run) at `index`, as CSS says it.

    >>> colour(0), colour(7)
    ('var(--c0)', 'var(--c1)')
    """
    return f"var(--c{index % COLOURS})"
