"""The report's page: words, tables and pictures put together into one HTML text that needs nothing else."""

import html
import json
from collections.abc import Sequence

from autoslim.graph import ChannelGraph
from autoslim.report.layers import widths_picture
from autoslim.report.picture import Picture, colour
from autoslim.report.read import Step, Summary
from autoslim.report.style import CSS, SCRIPT
from autoslim.report.table import frozen_table, result_table, seconds_table, versions_table, widths_table
from autoslim.report.text import outcome
from autoslim.report.tradeoff import cost_picture, uniform_picture
from autoslim.report.trust import Ranking, trust_picture

# The browser itself holds the page to its promise: nothing is fetched, whatever the data or plotly.js ask for.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_CAUTION = (
    "This is one run with one seed. Differences of this kind are within the noise of training "
    "unless they are repeated with other seeds."
)


def render_page(
    summary: Summary, steps: Sequence[Step], graph: ChannelGraph, *, ranking: Ranking | None = None, plotly_js: str
) -> str:
    """The whole page; `plotly_js` is inlined once, `ranking` has a section where it was measured."""
    pictures = (widths_picture(graph, summary.budgets), cost_picture(summary, steps), uniform_picture(summary))
    measured = [trust_picture(ranking)] if ranking is not None else []
    figures = {picture.name: picture.figure for picture in (*pictures, *measured) if picture.figure is not None}
    widths, cost, uniform = (_figure(picture) for picture in pictures)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>AutoSlim: {_text(summary.model)}</title>
<style>{CSS}</style>
</head>
<body>
{_header(summary)}
<main>
<section><h2>Results</h2>
<noscript><p class="note">The pictures need JavaScript; what they show is also told in the tables.</p></noscript>
{result_table(summary)}
<p class="note">{_CAUTION}</p></section>
<section><h2>{_text(pictures[0].title)}</h2>
{_switch(pictures[0])}{widths}
{_details("Widths as a table", widths_table(graph, summary.budgets))}</section>
<section><h2>{_text(pictures[1].title)}</h2>
{cost}</section>
<section><h2>{_text(pictures[2].title)}</h2>
{uniform}
<p class="note">{_CAUTION}</p></section>
{"".join(map(_section, measured))}{_frozen(graph)}
{_notes(summary, graph)}
{_origin(summary)}
</main>
<script type="application/json" id="figures">{script_json(figures)}</script>
<script>{plotly_js}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def script_json(data: object) -> str:
    """JSON that can stand inside a script element: no "</script>" or "<!--" can be formed, no NaN is let through."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _header(summary: Summary) -> str:
    inputs = ", ".join("\N{MULTIPLICATION SIGN}".join(map(str, shape)) for shape in summary.inputs)
    facts = {"data": summary.data, "task": summary.task, "seed": summary.seed, "input": inputs}
    pairs = "".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    outcomes = "\n".join(
        f'<li style="--budget:{colour(index)}"><strong>{_text(result.budget)}</strong>'
        f"{_text(outcome(summary, result))}</li>"
        for index, result in enumerate(summary.budgets)
    )
    return f"""<header>
<p class="eyebrow">AutoSlim report</p>
<h1>{_text(summary.model)}</h1>
<dl class="facts">{pairs}</dl>
<ul class="outcomes">
{outcomes or "<li>No budget was asked for.</li>"}
</ul>
</header>"""


def _section(picture: Picture) -> str:
    return f"<section><h2>{_text(picture.title)}</h2>\n{_figure(picture)}</section>\n"


def _figure(picture: Picture) -> str:
    if picture.figure is None:
        return f'<p class="note" id="{picture.name}">Not run: there is nothing to draw.</p>'
    return f"""<figure>
<div class="scroll" tabindex="0"><div id="{picture.name}" role="img" aria-label="{_text(picture.alt)}"
style="min-width:{picture.min_width}px;height:{picture.figure["layout"]["height"]}px"></div></div>
<figcaption>{_text(picture.caption)}</figcaption>
</figure>"""


def _switch(picture: Picture) -> str:
    if picture.figure is None:
        return ""
    return """<div class="switch" role="group" aria-label="Unit of the bars">
<button type="button" value="channels" aria-pressed="true">channels</button>
<button type="button" value="share" aria-pressed="false">share of full width</button></div>
"""


def _frozen(graph: ChannelGraph) -> str:
    frozen = sum(group.frozen is not None for group in graph.groups)
    if not frozen:
        return "<section><h2>Frozen groups</h2><p>None: every group of layers could be narrowed.</p></section>"
    label = f"{frozen} of {len(graph.groups)} groups keep all their channels, and why"
    return f"<section><h2>Frozen groups</h2>{_details(label, frozen_table(graph))}</section>"


def _notes(summary: Summary, graph: ChannelGraph) -> str:
    notes = [*summary.notes, *graph.notes, *(f"{g.name}: {g.note}" for g in graph.groups if g.note)]
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if notes else ""


def _origin(summary: Summary) -> str:
    command = (
        f"<p>To make this run again:</p><pre><code>{_text(summary.command)}</code></pre>" if summary.command else ""
    )
    return f"""<section><h2>How it was made</h2>
<div class="pair">{seconds_table(summary)}{versions_table(summary)}</div>
{command}</section>"""


def _details(label: str, body: str) -> str:
    return f"<details><summary>{_text(label)}</summary>{body}</details>"


def _text(value: object) -> str:
    return html.escape(str(value))
