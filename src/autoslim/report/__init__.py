"""STAGE 6: takes the JSON files of a finished run folder, gives report.html, one page that opens with no network."""

import os
from pathlib import Path

from autoslim.errors import RunFolderError
from autoslim.report.page import render_page
from autoslim.report.read import check_widths, read_graph, read_steps, read_summary
from autoslim.report.trust import read_ranking

__all__ = ["write_report"]


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder, from the `summary.json`, `search.jsonl` and `graph.json` in it.

    `trust.json` gets a section if it is there, too.

    The page is self-contained (plotly.js is inlined once) and is written aside and then moved into place, so an
    older report is either replaced as a whole or left as it is.

    Args:
        folder: The folder of a run.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: One of the three files is missing, one of the four broken, or the page can't be written.
    """
    folder = Path(folder)
    file = folder / "summary.json"
    summary, steps = read_summary(file), read_steps(folder / "search.jsonl")
    graph = read_graph(folder / "graph.json")
    check_widths(file, summary, graph)
    ranking = read_ranking(folder / "trust.json")
    page = render_page(summary, steps, graph, ranking=ranking, plotly_js=_plotly_js())
    return _write(folder / "report.html", page)


def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs  # here, so that nothing but the writing of a report loads plotly

    return get_plotlyjs()


def _write(file: Path, text: str) -> Path:
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        try:
            aside.write_text(text, encoding="utf-8", newline="\n")
            os.replace(aside, file)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"`{file}`: can't be written ({error}); expected a folder with room for about 5 MB. Free the disk or "
            "make the folder writable, then write the report again."
        ) from error
    return file
