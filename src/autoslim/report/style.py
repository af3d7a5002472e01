"""The page's looks and its script: files beside this one, with nothing in them that comes from data."""

import html
from pathlib import Path

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_CHART, _PAGE, _TABLES = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("chart.js", "page.js", "tables.js")
)
SCRIPT = f"{_CHART}\n{_PAGE}\n{_TABLES}"
TABLES = f"{_CHART}\n{_TABLES}"  # for a page without pictures that move

# The browser itself holds a page to its promise: nothing is fetched, whatever the data ask for.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"

COLOURS = 6  # that page.css names --c0 to --c5, for light and for dark


def colour(index: int) -> str:
    """The colour of the budget (or, of several runs, of the run) at `index`, as CSS says it.

    >>> colour(0), colour(7)
    ('var(--c0)', 'var(--c1)')
    """
    return f"var(--c{index % COLOURS})"


def escape(value: object) -> str:
    """What comes from data, as HTML has it."""
    return html.escape(str(value))


def whole_page(title: str, header: str, main: str, *, scripts: str) -> str:
    """One HTML text that needs nothing else, from parts that are HTML themselves; `scripts` with their own elements."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
{header}
<main>
{main}
</main>
<p id="live" class="unseen" role="status" aria-live="polite"></p>
{scripts}
</body>
</html>
"""
