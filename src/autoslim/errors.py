"""What can go wrong, told in four parts: what, where, what was expected, what to do."""


class AutoSlimError(Exception):
    """Root of every error this library raises on purpose. The command line prints it without a traceback."""


class UnknownNameError(AutoSlimError, KeyError):
    """A name that no registry, model library or folder knows; the message lists the closest ones."""

    def __str__(self) -> str:  # KeyError would print the message's repr, with its line breaks escaped
        return str(self.args[0])


class ConfigError(AutoSlimError, ValueError):
    """Settings that don't fit: a field out of range, or two that contradict each other."""


class WidthsError(AutoSlimError, ValueError):
    """Widths that do not fit their graph: an unknown group, or channels that are no whole atoms."""


class BudgetError(AutoSlimError, ValueError):
    """A budget that can't be parsed, or that no sub-network of the supernet can hold."""


class ModelError(AutoSlimError, ValueError):
    """A model that can't be built, traced, loaded or extracted."""


class DataError(AutoSlimError, ValueError):
    """Images that are missing, unreadable, or unfit for the task."""


class TrainingError(AutoSlimError, RuntimeError):
    """A training that can't go on: the loss is not finite."""


class RanksError(AutoSlimError, RuntimeError):
    """The processes that share a run have lost one of them."""


class RuntimeFailedError(AutoSlimError, RuntimeError):
    """A runtime that is not installed, can't run a network, or tells no time."""


class RunFolderError(AutoSlimError, ValueError):
    """An output folder that holds something else, or a file in it that can't be read."""


def describe_error(error: Exception) -> str:
    """The kind of an error and the first line of what it says, cut at 300 characters.

    >>> describe_error(ValueError("not a number\\nand more"))
    'ValueError: not a number'
    """
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'no reason was given'}"[:300]
