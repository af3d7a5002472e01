"""Where the command line's process starts: its settings are made before the first operator runs, then the command."""

import sys

from autoslim._process import set_process
from autoslim.cli import main as command


def main() -> int:
    """Entry point of `autoslim` and `python -m autoslim`."""
    set_process()
    return command()


if __name__ == "__main__":
    sys.exit(main())
