"""Where the command line's process starts: its settings are made before the first operator runs, then the command."""

import os
import sys

from autoslim._process import set_process
from autoslim.cli import main as command


def main() -> int:
    """Entry point of `autoslim` and `python -m autoslim`."""
    set_process()
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one tells; errors are told by all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    return command()


if __name__ == "__main__":
    sys.exit(main())
