"""`path/to/file.py:FACTORY`: datasets of the user's own. The file is code, and is run: name only what you trust."""

from collections.abc import Generator
from contextlib import contextmanager

from autoslim._code import run_code
from autoslim.data._base import SOURCES, TARGET_SOURCES
from autoslim.data._datasets import list_datasets
from autoslim.data._listing import Found, locate
from autoslim.errors import DataError
from autoslim.tasks import Targets


@contextmanager
def list_file(place: str, targets: Targets | None = None) -> Generator[Found, None, None]:
    """Lists what the factory, called without arguments, returns: a dataset, or (train, test), or loaders over them.

    Args:
        place: "path/to/file.py:FACTORY".
        targets: How an item's target is read; None: it is a label.

    Raises:
        DataError: No such file or factory, one that fails, or what `list_datasets` refuses.
    """
    text, _, name = place.rpartition(":")
    path = locate(text).resolve()
    if not path.is_file():
        raise DataError(f"{place}: there is no such file; expected a Python file. Check the path.")
    try:
        given = getattr(run_code(path, path.read_bytes()), name)()
    except (Exception, SystemExit) as error:  # it is the user's own code, and is told
        raise DataError(
            f"{place}: {type(error).__name__}: {error}; expected a file with a function {name}() that returns a "
            "dataset, or two: train and test. Correct it."
        ) from error
    train, test = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
    yield list_datasets(place, train, test, targets)


SOURCES.register("file", list_file)
TARGET_SOURCES.register("file", list_file)
