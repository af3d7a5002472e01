"""Where commands print their tables."""

import os
from typing import Any

from rich.console import Console

_WIDE = 220  # columns, where nobody's window limits them


def make_console(**options: Any) -> Console:
    """A console for tables: in a pipe or a file, unless COLUMNS says otherwise, none of their cells is cut."""
    console = Console(highlight=False, **options)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    return console
