"""Where words go: the one kind of console for all that is printed, by commands and by what runs long."""

import os
from typing import Any

from rich.console import Console
from rich.text import Text

_WIDE = 220  # columns, where nobody's window limits them


def printable(text: str) -> str:
    r"""The text as UTF-8 can say it: of a file's name that is not UTF-8, the odd bytes written out.

    >>> printable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


class _Console(Console):
    """Prints every string, a table's cells too, as `printable` has it."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def make_console(*, stderr: bool = False, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """A console that prints what it is given: `:cat:` and `[bold]` may stand in a folder's name.

    In a pipe or a file, unless COLUMNS says otherwise, no cell of a table is cut.

    Args:
        stderr: Print to stderr.
        quiet: Print nothing.
        soft_wrap: Lines are not broken: the terminal may, and a program reads them whole.
    """
    console = _Console(stderr=stderr, quiet=quiet, soft_wrap=soft_wrap, highlight=False, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console
