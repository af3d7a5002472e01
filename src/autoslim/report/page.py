"""The report's page: words, tables and places for pictures put together into one HTML text that needs nothing else."""

import json
from collections.abc import Mapping, Sequence

from autoslim.graph import ChannelGraph
from autoslim.report.read import Summary
from autoslim.report.run import Run, drawn_data
from autoslim.report.style import SCRIPT, colour, escape, whole_page
from autoslim.report.table import (
    frozen_table,
    latency_table,
    network_table,
    pairs_table,
    path_table,
    searches_table,
    seconds_table,
    widths_table,
)
from autoslim.report.text import METRIC_WORDS, outcome, say_count, say_score, say_share
from autoslim.report.trust import explain_ranking

_CAUTION = (
    "Each run has one seed. Differences of this kind are within the noise of training unless they are repeated with "
    "other seeds."
)


def render_page(runs: Sequence[Run]) -> str:
    """The whole page, of one run or of several side by side."""
    (title, header), many = _header(runs), len(runs) > 1
    parts = "\n".join(_several(index, run) if many else _parts(index, run) for index, run in enumerate(runs))
    data = {"words": METRIC_WORDS, "runs": [drawn_data(run) for run in runs]}
    main = f"""<noscript>
<p class="note">The pictures need JavaScript; what they show is also told in the tables.</p>
</noscript>
<section><h2>Widths at every budget</h2>
<div class="sides">{"".join(_slim(index, run, many=many) for index, run in enumerate(runs))}</div></section>
<section><h2>{escape(_metric_of(runs))} against cost</h2>
{_picture("tradeoff", -1, " ".join(_tradeoff_in_words(run, many=many) for run in runs), _tradeoff_caption(runs))}
</section>
<section><h2>Results</h2>
{network_table(runs)}
<p class="soft">Memory is parameters + activations, in elements. {escape(_differences(runs))}, those of
cost are in the first metric that the budget limits.</p>
<p class="note">{_CAUTION}</p></section>
{parts}"""
    scripts = f"""<script type="application/json" id="data">{script_json(data)}</script>
<script>{SCRIPT}</script>"""
    return whole_page(f"AutoSlim: {escape(title)}", header, main, scripts=scripts)


def script_json(data: object) -> str:
    """JSON that can stand inside a script element: no "</script>" or "<!--" can be formed, no NaN is let through."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# Header ---------------------------------------------------------------------------------------------------------------


def _header(runs: Sequence[Run]) -> tuple[str, str]:
    """The page's title, and its header."""
    if len(runs) == 1:
        title, facts, outcomes = runs[0].summary.model, _facts(runs[0].summary), _outcomes(runs[0].summary)
    else:
        title, facts = f"{len(runs)} runs side by side", ""
        outcomes = "\n".join(
            f'<li style="--tone:{colour(index)}"><strong>{escape(run.name)}</strong>{escape(run.summary.model)}'
            f"{_facts(run.summary)}</li>"
            for index, run in enumerate(runs)
        )
    return (
        title,
        f"""<header>
<p class="eyebrow">AutoSlim report</p>
<h1>{_big(title)}</h1>
{facts}<ul class="outcomes">
{outcomes}
</ul>
</header>""",
    )


def _big(title: str) -> str:
    """A model's name, and its arguments in small letters below it."""
    name, mark, arguments = title.partition("?")
    return escape(name) + (f"<small>{escape(arguments)}</small>" if mark else "")


def _facts(summary: Summary) -> str:
    inputs = ", ".join("\N{MULTIPLICATION SIGN}".join(map(str, shape)) for shape in summary.inputs)
    facts = {"data": summary.data, "task": summary.task, "seed": summary.seed, "input": inputs}
    pairs = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{pairs}</dl>\n'


def _outcomes(summary: Summary) -> str:
    told = "\n".join(
        f'<li style="--tone:{colour(index)}"><strong>{escape(result.budget)}</strong>'
        f"{escape(outcome(summary, result))}</li>"
        for index, result in enumerate(summary.budgets)
    )
    return told or "<li>No budget was asked for.</li>"


# Pictures -------------------------------------------------------------------------------------------------------------


def _slim(index: int, run: Run, *, many: bool) -> str:
    """Place of the slider and its bars."""
    frozen = sum(group.frozen is not None for group in run.graph.groups)
    kept = "; ".join(
        f"{r.budget} keeps {say_share(_kept(run.graph, r.widths))} of all channels" for r in run.summary.budgets
    )
    alt = f"Bars: the channels of {len(run.graph.groups)} groups of layers, {frozen} of them frozen. {kept}."
    caption = (
        "Channels kept by each group of layers, in the order they run, at the slider's position on the path of the "
        "search. The outline is the full width; a filled grey bar is a frozen group, which keeps all its channels."
    )
    head = f'<h3><span class="dot" style="--tone:{colour(index)}"></span>{escape(run.name)}</h3>' if many else ""
    table = _details("Widths as a table", widths_table(run.graph, run.summary.budgets))
    return f"<div>{head}{_picture('slim', index, alt, caption)}{table}</div>"


def _picture(kind: str, index: int, alt: str, caption: str) -> str:
    """Place of a picture that the page's script draws; `index` is the run's, -1 for all."""
    return f"""<figure class="{kind}" data-run="{index}" data-alt="{escape(alt)}">
<figcaption>{escape(caption)}</figcaption></figure>
"""


def _tradeoff_caption(runs: Sequence[Run]) -> str:
    line = "joined where each narrows the one before it; " if any(run.is_path for run in runs) else ""
    return (
        f"Small circles: the steps of the search, {line}crosses: other sub-networks that were scored; both are the "
        f"supernet's {_word_of(runs)} on search images. Large marks are networks after retraining, on test images: "
        "circle AutoSlim, diamond the uniform network, star your network, coloured as the budgets. Heights of small "
        "and large marks can't be compared: the images differ. The vertical axis does not start at 0."
    )


def _tradeoff_in_words(run: Run, *, many: bool) -> str:
    """The picture for those who can't see it."""
    summary, steps, scale = run.summary, run.steps, run.summary.scale
    words = [f"{run.name}." if many else "", f"{_first_big(summary.metric)} against cost."]
    if steps:
        ends = [
            f"{say_count(step.costs['macs'])} MACs at {say_score(step.accuracy, scale)}"
            for step in (steps[0], steps[-1])
        ]
        words.append(f"The search took {len(steps)} steps, from {ends[0]} to {ends[1]}.")
    else:
        words.append("The search took no steps.")
    words.append(f"Your network: {say_score(summary.base.test, scale)}.")
    for result in summary.budgets:
        uniform = result.uniform.test if result.uniform else None
        slim = say_score(result.slim.test, scale)
        words.append(f"{result.budget}: AutoSlim {slim}, uniform {say_score(uniform, scale)}.")
    return " ".join(word for word in words if word)


# Parts of one run -----------------------------------------------------------------------------------------------------


def _several(index: int, run: Run) -> str:
    told = f"<summary>{escape(run.name)}: path, training, how it was made</summary>"
    return f'<details class="run">{told}{_parts(index, run)}</details>'


def _parts(index: int, run: Run) -> str:
    parts = [_path(run), _latency(index, run), _training(index, run), _trust(index, run), _frozen(run.graph)]
    return "\n".join(part for part in (*parts, _notes(run), _origin(run)) if part)


def _path(run: Run) -> str:
    steps = (
        _details(f"All {len(run.steps)} steps as a table", path_table(run))
        if run.steps
        else "<p>The search accepted no step.</p>"
    )
    return f"<section><h2>Path of the search</h2>{steps}{searches_table(run) if run.searches else ''}</section>"


def _latency(index: int, run: Run) -> str:
    latency = run.latency
    if latency is None:
        return ""
    setting = ", ".join(f"{name} {value}" for name, value in latency.setting.items())
    caption = (
        f"Each of {len(latency.pairs)} networks was predicted from the measurements of others only; median error "
        f"{100 * latency.error:.1f}%. On the line prediction and measurement agree. Measured with: {setting}."
    )
    alt = f"Predicted against measured latency of {len(latency.pairs)} networks."
    found = latency_table(run, latency) if latency.found else ""
    return (
        f"<section><h2>Latency, predicted and measured</h2>{_picture('latency', index, alt, caption)}{found}</section>"
    )


def _training(index: int, run: Run) -> str:
    if not run.curves:
        return ""
    ends = [(c.name, c.losses[-1], len(c.losses)) for c in run.curves]
    told = "; ".join(f"{name} {'not finite' if loss is None else f'{loss:.3g}'}" for name, loss, _ in ends)
    caption = (
        "Mean loss of each epoch. The supernet's is the sum over the sub-networks of a step, so it can't be compared "
        "with the others; those are of the networks trained alone."
    )
    return f"<section><h2>Training</h2>{_picture('training', index, f'Last losses: {told}.', caption)}</section>"


def _trust(index: int, run: Run) -> str:
    if run.ranking is None:
        return ""
    metric = run.summary.metric
    alt = f"{len(run.ranking.points)} sub-networks: {metric} in the supernet against {metric} alone."
    picture = _picture("trust", index, alt, explain_ranking(run.ranking))
    return f"<section><h2>Does the supernet rank well?</h2>{picture}</section>"


def _frozen(graph: ChannelGraph) -> str:
    frozen = sum(group.frozen is not None for group in graph.groups)
    if not frozen:
        return "<section><h2>Frozen groups</h2><p>None: every group of layers could be narrowed.</p></section>"
    told = f"<p>{frozen} of {len(graph.groups)} groups keep all their channels.</p>"
    return f"<section><h2>Frozen groups</h2>{told}{frozen_table(graph)}</section>"


def _notes(run: Run) -> str:
    graph = run.graph
    notes = dict.fromkeys([*run.summary.notes, *graph.notes, *(f"{g.name}: {g.note}" for g in graph.groups if g.note)])
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>" if notes else ""


def _origin(run: Run) -> str:
    summary = run.summary
    commands = [summary.command] if summary.command else []
    if run.ranking is not None:
        sizes = f"--samples {len(run.ranking.points)} --epochs {run.ranking.epochs}"
        commands.append(f"autoslim trust {run.settings.get('out') or run.name} {sizes}")
    told = "\n".join(f"<code>{escape(each)}</code>" for each in commands)
    command = (
        f'<p>To make this again (seed {escape(summary.seed)}):</p><pre tabindex="0">{told}</pre>' if commands else ""
    )
    versions = pairs_table("Versions.", ["software", "version"], list(summary.versions.items()))
    settings = pairs_table("Settings, as run.json holds them.", ["setting", "value"], list(run.settings.items()))
    return f"""<section><h2>How it was made</h2>
{command}
<div class="pair">{seconds_table(summary)}{versions}</div>
{_details("All settings", settings) if run.settings else ""}</section>"""


def _details(label: str, body: str) -> str:
    return f"<details><summary>{escape(label)}</summary>{body}</details>"


def _word_of(runs: Sequence[Run]) -> str:
    metrics = {run.summary.metric for run in runs}
    return metrics.pop() if len(metrics) == 1 else "score"


def _differences(runs: Sequence[Run]) -> str:
    """The unit of differences, and which way is better where it is not as everybody expects."""
    less = sorted({run.summary.metric for run in runs if not run.summary.scale.higher})
    better = f"; of {', '.join(less)} less is better" if less else ""
    if all(run.summary.scale.share for run in runs):
        return f"Differences of {_word_of(runs)} are percentage points{better}"
    return f"Differences of {_word_of(runs)} are as it is told{better}"


def _metric_of(runs: Sequence[Run]) -> str:
    return _first_big(_word_of(runs))


def _first_big(metric: str) -> str:
    return metric.capitalize() if metric.islower() else metric


def _kept(graph: ChannelGraph, widths: Mapping[str, int]) -> float:
    return sum(widths[group.name] for group in graph.groups) / max(sum(group.size for group in graph.groups), 1)
