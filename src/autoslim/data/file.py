"""`path/to/file.py:FACTORY`: datasets of the user's own. The file is code, and is run: name only what you trust."""

import hashlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location

from autoslim.data._base import SOURCES
from autoslim.data._datasets import list_datasets
from autoslim.data._listing import Found, locate
from autoslim.errors import DataError


@contextmanager
def list_file(place: str) -> Generator[Found, None, None]:
    """Lists what the factory, called without arguments, returns: a dataset, or (train, test), or loaders over them.

    Raises:
        DataError: No such file or factory, one that fails, or what `list_datasets` refuses.
    """
    text, _, name = place.rpartition(":")
    path = locate(text).resolve()
    if not path.is_file():
        raise DataError(f"{place}: there is no such file; expected a Python file. Check the path.")
    module_name = f"autoslim_data_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(module_name, path)
    assert spec is not None, "a .py file always has one"
    assert spec.loader is not None, "likewise"
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # where pickle looks for the classes of datasets, for workers
    sys.path.insert(0, str(path.parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
        given = getattr(module, name)()
    except Exception as error:  # it is the user's own code, and is told
        raise DataError(
            f"{place}: {type(error).__name__}: {error}; expected a file with a function {name}() that returns a "
            "dataset, or two: train and test. Correct it."
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    train, test = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    yield list_datasets(place, train, test)


SOURCES.register("file", list_file)
