"""`autoslim retrain`: the network in a model folder trained with the recipe of its run, and tested."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from autoslim._console import make_console
from autoslim.cli._stop import tell_stopped
from autoslim.progress import Shown
from autoslim.retrain import retrain_folder


@dataclass(frozen=True, kw_only=True)
class RetrainArgs:
    """What `autoslim retrain` takes."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of the run that the network was found in."""
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the network, as autoslim pick --extract writes it; the trained weights take the place of its own."""
    quiet: bool = False
    """Show nothing but errors; the result is in FOLDER/metrics.json."""
    json: bool = False
    """Print the result as JSON."""


def retrain_command(args: list[str]) -> int:
    """Trains and tests a network; returns the exit code, 130 or 143 if interrupted."""
    about = (
        "Trains a network that was picked as its run trains what it finds (epochs, learning rate, augmentation, start "
        "weights), and tests it on the test images. What was stopped goes on when called again."
    )
    given = tyro.cli(RetrainArgs, args=args, prog="autoslim retrain", description=about)
    try:
        metrics = retrain_folder(given.run, given.folder, shown=Shown(quiet=given.quiet or given.json))
    except KeyboardInterrupt as interrupt:
        return tell_stopped(f"go on with autoslim retrain {given.run} {given.folder}", interrupt)
    if given.json:
        make_console(soft_wrap=True).print(json.dumps({**metrics, "folder": given.folder}))
    return 0
