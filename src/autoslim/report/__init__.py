"""STAGE 6: takes the files of finished run folders, gives report.html, one page that opens with no network."""

from collections.abc import Sequence
from pathlib import Path

from autoslim._console import printable
from autoslim.errors import RunFolderError
from autoslim.report.page import render_page
from autoslim.report.png import write_png as write_png
from autoslim.report.run import read_run, read_runs
from autoslim.run_folder import write_whole

__all__ = ["write_comparison", "write_png", "write_report"]


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder, from the `summary.json`, `search.jsonl` and `graph.json` in it.

    What else is there gets its place: losses, measured latencies, scores, further searches, samples of
    `autoslim trust`. The page is self-contained, and is written aside and then moved into place, so an older report is
    either replaced as a whole or left as it is.

    Args:
        folder: The folder of a run.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: One of the three files is missing, any file is broken, or the page can't be written.
    """
    folder = Path(folder)
    return _write(folder / "report.html", render_page([read_run(folder)]))


def write_comparison(folders: Sequence[Path], file: Path) -> Path:
    """Writes one page that lays several runs side by side: a table and curves of all, a slider for each.

    Args:
        folders: The folders of runs.
        file: The page; one that is there is replaced.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: As for `write_report`.
    """
    return _write(Path(file), render_page(read_runs([Path(folder) for folder in folders])))


def _write(file: Path, text: str) -> Path:
    try:
        write_whole(file, lambda aside: aside.write_text(printable(text), encoding="utf-8", newline="\n"))
    except OSError as error:
        raise RunFolderError(
            f"`{file}`: can't be written ({error}); expected a folder with room for about 1 MB. Free the disk or "
            "make the folder writable, then write the report again."
        ) from error
    return file
