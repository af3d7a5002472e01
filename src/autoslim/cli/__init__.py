"""The command line: one command per stage, `run` for all of them. Options are the fields of the configurations."""

import errno
import sys
from collections.abc import Callable, Sequence

import torch

from autoslim._console import make_console
from autoslim._registry import unknown_name
from autoslim._version import __version__
from autoslim.cli._stop import hear_terminate, tell_stopped
from autoslim.cli.compare import compare_command
from autoslim.cli.completion import completion_command
from autoslim.cli.doctor import doctor_command
from autoslim.cli.export import export_command
from autoslim.cli.pick import pick_command
from autoslim.cli.profile import profile_command
from autoslim.cli.report import report_command
from autoslim.cli.retrain import retrain_command
from autoslim.cli.run import run_command
from autoslim.cli.search import search_command
from autoslim.cli.trace import trace_command
from autoslim.cli.trust import trust_command
from autoslim.errors import AutoSlimError, describe_error
from autoslim.pipeline import leave_ranks
from autoslim.recipes import RECIPES

_HELP = """autoslim: sets the channel numbers of a neural network automatically, under a real budget.

  autoslim run [RECIPE] [options]   train one slimmable network, search the widths, retrain what was found, report
  autoslim run --resume DIR         go on with a run that was stopped
  autoslim trace MODEL [options]    show the channel groups of a network and what freezes the others
  autoslim profile MODEL [options]  tell what a network costs, layer by layer; --paper: the paper's table recomputed
  autoslim search RUN [options]     search a trained run once more: another method, other budgets; --dry-run: costs only
  autoslim trust RUN [options]      tell how well the supernet of a run ranks: train samples alone, compare the orders
  autoslim compare [RECIPE] [options]  run AutoSlim and the methods of the field on the same work: one table; --dry-run
  autoslim doctor                   try what is installed: packages, devices, runtimes, and the pipeline in 20 seconds
  autoslim export RUN [options]     write a network as ONNX, OpenVINO, torch.export, state dict or Python, and check it
  autoslim report RUN [RUN...]      write the report anew, or of several runs side by side; --png: for papers
  autoslim completion bash|zsh      print a script that lets the shell complete all of this
  autoslim pick RUN --budget "..."  take a network for another budget from a finished search, without searching again
  autoslim retrain RUN FOLDER       train a network that was picked as the run trains its own, and test it

`autoslim COMMAND --help` lists the options; `autoslim --version` prints the version. RECIPE is
one of: {recipes} (default: {default}).
"""

_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run_command,
    "trace": trace_command,
    "profile": profile_command,
    "search": search_command,
    "trust": trust_command,
    "compare": compare_command,
    "doctor": doctor_command,
    "export": export_command,
    "report": report_command,
    "completion": lambda args: completion_command(args, _COMMANDS),
    "pick": pick_command,
    "retrain": retrain_command,
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a limit on files
_BARRED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (docs/reference/commands.md): 0; 2 for an error that was told; 130 or 143
    if it was interrupted."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        recipes = list(RECIPES)
        make_console(soft_wrap=True).print(_HELP.format(recipes=", ".join(recipes), default=recipes[0]))
        return 0
    if args[0] in ("-V", "--version"):
        make_console().print(f"autoslim {__version__}")
        return 0
    try:
        if args[0] not in _COMMANDS:
            raise unknown_name("command", args[0], list(_COMMANDS), hint="See autoslim --help.")
        with hear_terminate():
            code = _COMMANDS[args[0]](args[1:])
        if code == 0:  # an error or an interrupt may have left the others anywhere: nobody waits for them
            leave_ranks()
        return code
    except AutoSlimError as error:
        make_console(stderr=True, soft_wrap=True).print(f"autoslim: {error}")
        return 2
    except torch.OutOfMemoryError as error:
        advice = "Expected room on the GPU. Close what else uses it, or begin with smaller images."
        make_console(stderr=True, soft_wrap=True).print(f"autoslim: {describe_error(error)}. {advice}")
        return 2
    except KeyboardInterrupt as interrupt:
        return tell_stopped("nothing was left half-written", interrupt)
    except OSError as error:
        if error.errno in _FULL:
            advice = "Expected room to write. Free some space, and go on where it stopped."
        elif error.errno in _BARRED and error.filename is not None:
            advice = "Expected a place to read from or write to. Give another, or change its permissions."
        else:
            raise
        make_console(stderr=True, soft_wrap=True).print(f"autoslim: {error}. {advice}")
        return 2
