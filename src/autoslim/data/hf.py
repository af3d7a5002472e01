"""Data sets that the Hugging Face library `datasets` reads: from a local folder (parquet, image folders) or the hub."""

import tempfile
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoslim.data._base import SOURCES
from autoslim.data._columns import cell_file, cell_name, choose_columns, describe_columns, find_train
from autoslim.data._listing import File, Found, Listing, locate
from autoslim.errors import DataError


@contextmanager
def list_hf(place: str) -> Generator[Found, None, None]:
    """Lists a data set; image and label columns are found by their type.

    Raises:
        DataError: It can't be loaded, or has no column of images or of labels.
    """
    # A local folder is read through a cache that goes with the context: nothing is left beside the user's data. What
    # comes from the hub stays in the library's own cache, or each run would download it again.
    with tempfile.TemporaryDirectory(prefix="autoslim-", ignore_cleanup_errors=True) as scratch:
        splits = _load(place, scratch)
        train = find_train(f"hf:{place}", splits)
        columns = describe_columns(next(iter(splits.values())).features)
        chosen = choose_columns(f"hf:{place}", train, columns, _Loaded(splits))

        def list_split(name: str) -> Listing:
            images = _leave_encoded(splits[name].select_columns([chosen.image]), chosen.image)
            return Listing(np.arange(len(chosen.labels[name])), chosen.labels[name], _Cells(images, chosen.image))

        test = None if chosen.test is None else list_split(chosen.test)
        yield Found(list_split(train), test, chosen.classes, chosen.notes)


@dataclass(frozen=True)
class _Loaded:
    """The splits, each a `datasets.Dataset`."""

    loaded: Mapping[str, Any]

    def splits(self) -> Sequence[str]:
        return list(self.loaded)

    def count(self, split: str) -> int:
        return len(self.loaded[split])

    def values(self, split: str, column: str) -> Sequence[Any]:
        return self.loaded[split][column][:]

    def distinct(self, split: str, column: str) -> Collection[Any]:
        return self.loaded[split].unique(column)


@dataclass(frozen=True)
class _Cells:
    """The images of a column, encoded, by row."""

    images: Any
    column: str

    def __call__(self, rows: Sequence[int]) -> Sequence[tuple[str, File]]:
        cells = self.images[rows][self.column]
        return [(cell_name(cell, f"row {row}"), cell_file(cell)) for cell, row in zip(cells, rows, strict=True)]


def _load(place: str, scratch: str) -> Mapping[str, Any]:
    """The splits by name."""
    import datasets  # heavy: only who asks for hf: pays for it

    folder = locate(place)
    local = bool(place) and folder.is_dir()
    if not local and (not place or place.startswith(("/", ".", "~")) or place.count("/") > 1):
        raise DataError(
            f"hf:{place}: there is no such folder; expected a folder with parquet files or images, or a name on the "
            f"hub like ylecun/mnist. Check the path, seen from {Path.cwd()}."
        )
    hidden = datasets.are_progress_bars_disabled()
    if not hidden:
        datasets.disable_progress_bars()
    try:
        if local:
            loaded = datasets.load_dataset(str(folder.resolve()), cache_dir=scratch)
        else:
            loaded = datasets.load_dataset(place)
    except Exception as error:  # it raises nearly everything: its own errors, pyarrow's, the network's
        tried = "reading this folder" if local else "a folder of this name (there is none), then the hub"
        raise DataError(
            f"hf:{place}: can't be loaded; tried {tried}. {type(error).__name__}: {error}. Expected parquet files or "
            "images. Check the name and the network, or give a local folder: hf:PATH."
        ) from error
    finally:
        if not hidden:
            datasets.enable_progress_bars()
    return {str(name): split for name, split in loaded.items()}


def _leave_encoded(split: Any, column: str) -> Any:
    """One truncated image must not end the loading of all."""
    import datasets

    return split.cast_column(column, datasets.Image(decode=False))


SOURCES.register("hf", list_hf)
