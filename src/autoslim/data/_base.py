"""Takes the name of some labelled images, gives them decoded: train and test, in memory, of one shape.

A source, one file of this shelf each, only lists images and labels. What holds for all of them is here: the checks, the
split that is made where none came along, decoding, and the statistics of the channels.
"""

import atexit
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from autoslim._console import printable
from autoslim._registry import Registry, unknown_name
from autoslim.data._datasets import list_datasets
from autoslim.data._encoded import Encoded
from autoslim.data._images import Decoded, decode_listing, describe_resize, find_shape, sizes_differ
from autoslim.data._listing import (
    Found,
    Listing,
    Shape,
    check_labels,
    check_parts,
    check_readable,
    describe_absent,
    describe_excess,
    fits_memory,
)
from autoslim.data._random import draw_order, draw_stratified
from autoslim.data._split import Split
from autoslim.data._told import fit_targets, merge_strata
from autoslim.errors import DataError
from autoslim.tasks import Targets

GIVEN = "python"  # the name of datasets that are given in Python
_TEST_SHARE = 0.2  # of the images, where no test split came along
_SAMPLE, _SAMPLE_BYTES = 5000, 2**29  # images that the statistics are taken of, where not all are decoded
_LEAST_STD = 1 / 255  # one step of a pixel: a constant channel must not divide by zero


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled images, ready to be trained on.

    Attributes:
        name: The spec they were loaded from; of what may change on the hub, with the commit.
        train: For training; the images that decide the search are held out of it with `hold_out`.
        test: For the final table only.
        classes: The name of each label.
        mean: Of each channel of the train images, in [0, 1].
        std: Likewise; never 0.
        resize: How images were brought to the input size, in words; "none" if all had it.
        notes: What the user must be told: a split that was made, images that were left out.
        files: What they were read from, where it is read in parts: names, and what tells each file from another.
    """

    name: str
    train: Split | Encoded
    test: Split | Encoded
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    notes: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()

    @property
    def input_shape(self) -> Shape:
        """Channels, height, width."""
        return self.train.shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)


# From the spec's part after the colon to what is there, for as long as the context is open.
Source: TypeAlias = Callable[[str], AbstractContextManager[Found]]
SOURCES: Registry[Source] = Registry("data source")
# Likewise for targets that are more than labels, and how they are read.
TargetSource: TypeAlias = Callable[[str, Targets], AbstractContextManager[Found]]
TARGET_SOURCES: Registry[TargetSource] = Registry("data source")


def _refuse_given(place: str) -> AbstractContextManager[Found]:
    raise DataError(
        f"{GIVEN}: these images were given in Python; expected them once more. Call "
        "run(config, data=(train, test)), or resume(folder, data=(train, test)) to go on with such a run."
    )


SOURCES.register(GIVEN, _refuse_given)
TARGET_SOURCES.register(GIVEN, lambda place, targets: _refuse_given(place))


def load_data(
    spec: str,
    *,
    input_shape: Shape | None = None,
    seed: int = 0,
    limit: int | None = None,
    whole: bool = False,
    targets: Targets | None = None,
) -> Data:
    """Finds labelled images, and loads them into memory where they fit: up to 8 GiB decoded.

    Others stay where they are, and are decoded when they are needed; `train` and `test` are then `Encoded`.

    >>> data = load_data("digits")
    >>> data.input_shape, data.num_classes, len(data.train), len(data.test)
    ((1, 8, 8), 10, 1438, 359)

    Args:
        spec: "digits", "folder:PATH" (one folder per class, in train/ and test/ or not), "hf:NAME_OR_FOLDER" (a
            data set of the Hugging Face hub, or a folder that its `datasets` library reads), "webdataset:PATTERN" (tar
            shards), "hf-stream:NAME_OR_URL" (parquet files that are read in parts), "shapes-masks" or "shapes-boxes"
            (drawn), or "path/to/file.py:FACTORY" (a function that returns datasets of torch's; the file is run).
        input_shape: (C, H, W) that all images are brought to, C being 1 or 3; by default it follows from the images.
        seed: Of the test split, where one must be made, and of `limit`.
        limit: At most so many images of each split, the classes in proportion; by default all.
        whole: Train images of another size than the input's stay encoded even if they fit into memory: for augmentation
            that cuts its crops out of whole pictures.
        targets: What the task reads of each image (`Task.targets`); None: a label.

    Raises:
        UnknownNameError: No such source; the message lists the closest.
        DataError: Images or labels that are missing, unreadable or contradictory.
    """
    source, _, place = spec.partition(":")
    if re.fullmatch(r".+\.py:\w+", spec):
        source, place = "file", spec
    known = list(dict.fromkeys([*SOURCES, *TARGET_SOURCES]))
    if source not in known:
        hint = (
            "Write digits, folder:PATH, hf:NAME_OR_FOLDER, hf-stream:NAME_OR_URL, webdataset:PATTERN or "
            "path/to/file.py:FACTORY."
        )
        raise unknown_name(SOURCES.kind, source, known, hint=hint)
    if source not in (SOURCES if targets is None else TARGET_SOURCES):
        has, wanted = ("targets", "labels") if targets is None else ("labels", "targets")
        raise DataError(
            f"{spec}: it has {has} for each image, not the {wanted} of this task; expected one of "
            f"{', '.join(name for name in (SOURCES if targets is None else TARGET_SOURCES) if name != GIVEN)}. Choose "
            "another --data, or another --task."
        )
    found = SOURCES[source](place) if targets is None else TARGET_SOURCES[source](place, targets)
    return _load(spec, found, input_shape=input_shape, seed=seed, limit=limit, whole=whole, targets=targets)


def load_datasets(
    train: Any,
    test: Any = None,
    *,
    input_shape: Shape | None = None,
    seed: int = 0,
    whole: bool = False,
    targets: Targets | None = None,
) -> Data:
    """Likewise from datasets, or loaders over them, that are at hand in Python.

    >>> from torch.utils.data import TensorDataset
    >>> pixels = torch.arange(96, dtype=torch.uint8).reshape(6, 1, 4, 4)
    >>> data = load_datasets(TensorDataset(pixels, torch.tensor([0, 1, 0, 1, 0, 1])))
    >>> data.input_shape, len(data.train), len(data.test)
    ((1, 4, 4), 4, 2)

    Args:
        train: A `torch.utils.data.Dataset` with a length, whose items are (image, label): an image of Pillow's, or a
            tensor [H, W] or [C, H, W], uint8 or floats from 0 to 1; and a whole number from 0, or what `targets` reads.
            Of a `DataLoader` its dataset is taken: order, batches and augmentation are this library's. So it must not
            augment images itself.
        test: Likewise; by default a part of train is set aside.
        input_shape: See `load_data`.
        seed: See `load_data`.
        whole: See `load_data`.
        targets: See `load_data`.

    Raises:
        DataError: Items of another kind, or what `load_data` refuses.
    """
    found = nullcontext(list_datasets(GIVEN, train, test, targets))
    return _load(GIVEN, found, input_shape=input_shape, seed=seed, limit=None, whole=whole, targets=targets)


def _load(
    spec: str,
    source: AbstractContextManager[Found],
    *,
    input_shape: Shape | None,
    seed: int,
    limit: int | None,
    whole: bool,
    targets: Targets | None,
) -> Data:
    _check_shape(spec, input_shape)
    with ExitStack() as opened:
        found = opened.enter_context(source)
        check_labels(spec, found)
        train, test, notes = _divide(spec, found, seed)
        notes = (*notes, *describe_absent(found))
        if limit is not None:
            train, test = (_limit(spec, part, found.classes, limit, seed) for part in (train, test))
            notes = (*notes, f"Limited to {len(train)} train and {len(test)} test images, drawn with seed {seed}.")
        if input_shape is None:
            input_shape, note = find_shape((train, test))
            notes = (*notes, note) if note else notes
        reasons = [describe_excess(len(train) + len(test), input_shape)] * 2
        if whole and not reasons[0] and sizes_differ(train, input_shape):
            reasons[0] = "Train images are decoded anew each time, as crops are cut out of whole pictures."
        parts = [
            _Part.decode(f"{spec}, {name}", listing, input_shape, found.classes, targets)
            if not reason
            else _Part.leave(
                f"{spec}, {name}", listing, input_shape, reason, seed if name == "train" else None, targets
            )
            for name, listing, reason in zip(("train", "test"), (train, test), reasons, strict=True)
        ]
        if any(reasons):
            atexit.register(opened.pop_all().close)  # the images are read for as long as the process lives
    mean, std = _statistics(parts[0].sample)
    resize = describe_resize(input_shape) if any(part.resized for part in parts) else "none"
    notes = (*notes, *(note for part in parts for note in part.notes), *_describe_flat(std))
    notes = tuple(dict.fromkeys(map(printable, notes)))
    name = found.spec or spec
    return Data(name, parts[0].split, parts[1].split, found.classes, mean, std, resize, notes, found.files)


@dataclass(frozen=True)
class _Part:
    """A split on its way: `sample` are some of its images or all, decoded."""

    split: Split | Encoded
    sample: torch.Tensor
    resized: bool
    notes: tuple[str, ...]

    @staticmethod
    def decode(where: str, listing: Listing, shape: Shape, classes: Sequence[str], targets: Targets | None) -> "_Part":
        """In memory; what can't be read is left out."""
        decoded, notes = _decode(where, listing, shape, classes if targets is None else ())
        kept = listing.take(decoded.kept)
        told = None if targets is None else fit_targets(where, kept, shape, targets)
        split = Split(decoded.images, torch.from_numpy(kept.labels), kept.rows, told)
        return _Part(split, decoded.images, decoded.resized, notes)

    @staticmethod
    def leave(
        where: str, listing: Listing, shape: Shape, reason: str, seed: int | None, targets: Targets | None
    ) -> "_Part":
        """Encoded; with a seed some are decoded, for the statistics of the channels."""
        told = None if targets is None else fit_targets(where, listing, shape, targets)
        if seed is None:
            return _Part(Encoded(listing, shape, told), torch.empty(0), False, (reason,))
        count = min(_SAMPLE, len(listing), max(_SAMPLE_BYTES // math.prod(shape), 1))
        pieces = listing.pieces
        drawn = np.sort(draw_order(len(listing), purpose="statistics", seed=seed, pieces=pieces)[:count])
        sample, _ = _decode(where, listing.take(drawn), shape, ())
        drew = f"Mean and standard deviation are those of {count} train images, drawn with seed {seed}."
        notes = (reason, drew) if pieces is None else (reason, pieces.note, drew)
        return _Part(Encoded(listing, shape, told), sample.images, sample.resized, notes)


def _decode(where: str, listing: Listing, shape: Shape, classes: Sequence[str]) -> tuple[Decoded, tuple[str, ...]]:
    """The images that can be read, and notes on the others; without `classes` not all of a class were looked at."""
    decoded = decode_listing(listing, shape)
    notes = check_readable(where, decoded.failed, listing.labels, decoded.kept, classes)
    if decoded.dark:
        raise DataError(
            f"{where}: {decoded.dark} images have 16 or 32 bits a pixel and no value above 255, which would be next to "
            "black; expected values up to 65535. Save them with 8 bits a pixel (Pillow's mode L)."
        )
    return decoded, notes


def decode_split(split: Split | Encoded) -> Split | Encoded:
    """The images in memory where they fit, else as they are: for those that are gone through again and again.

    Raises:
        DataError: One of them can't be read.
    """
    if isinstance(split, Split) or not fits_memory(len(split), split.shape):
        return split
    decoded = decode_listing(split.listing, split.shape)
    if decoded.failed:
        raise DataError(
            f"{len(decoded.failed)} of {len(split)} images can't be read, the first is {decoded.failed[0]}. Expected "
            "intact ones. Replace or remove them, and start anew: the split follows from the list of images."
        )
    return Split(decoded.images, split.labels, split.rows, split.told)


_S = TypeVar("_S", bound=Split | Encoded)


def hold_out(train: _S, *, share: float = 0.1, most: int = 10_000, seed: int) -> tuple[_S, _S]:
    """Holds the images out of train that decide the search.

    >>> train, search = hold_out(load_data("digits").train, seed=0)
    >>> len(train), len(search)
    (1294, 144)

    Args:
        train: What to divide.
        share: Of the images, to hold out.
        most: At most so many images, though at least one of each class.
        seed: Of the draw; the same seed holds out the same images.

    Returns:
        Train without them, and the images held out, each class in proportion in both.

    Raises:
        DataError: A class has fewer than two images, or `share` is not between 0 and 1.
    """
    if not 0 < share < 1 or most < 1:
        raise DataError(
            f"hold_out: share {share}, most {most}; expected 0 < share < 1 and at least 1 image. "
            "Use for instance share=0.1."
        )
    labels = train.labels.numpy() if train.told is None else merge_strata(train.labels.numpy())
    check_parts("hold_out", labels, None, 2)
    count = max(min(round(share * len(train)), most), 1)
    chosen = draw_stratified(labels, count, purpose="hold out", seed=seed, spare=1, pieces=train.pieces)
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    return train.take(rest), train.take(chosen)  # pyright: ignore[reportReturnType]


def _check_shape(spec: str, input_shape: Shape | None) -> None:
    if input_shape is not None and (input_shape[0] not in (1, 3) or min(input_shape) < 1):
        raise DataError(
            f"{spec}: images can't be brought to {'x'.join(map(str, input_shape))}; expected channels x height x width "
            "with 1 channel (grey) or 3 (RGB). Choose for instance --input 3,32,32."
        )


def _divide(spec: str, found: Found, seed: int) -> tuple[Listing, Listing, tuple[str, ...]]:
    """Train and test as found, or made from all images; and the notes with it."""
    if found.test is not None:
        return found.train, found.test, found.notes
    total, told = len(found.train), found.train.told is not None
    labels = merge_strata(found.train.labels) if told else found.train.labels
    check_parts(spec, labels, None if told else found.classes, 3)
    count, pieces = round(_TEST_SHARE * total), found.train.pieces
    chosen = draw_stratified(labels, count, purpose="test split", seed=seed, spare=2, pieces=pieces)
    note = (
        f"No test split came along: {len(chosen)} of the {total} images are set aside as test, the classes in "
        f"proportion, drawn with seed {seed}."
    )
    rest = np.setdiff1d(np.arange(total), chosen)
    return found.train.take(rest), found.train.take(chosen), (*found.notes, note)


def _limit(spec: str, listing: Listing, classes: Sequence[str], limit: int, seed: int) -> Listing:
    if limit < len(classes) and listing.told is None:
        raise DataError(
            f"{spec}: a limit of {limit} images is less than one for each of the {len(classes)} classes; expected "
            f"at least {len(classes)}. Raise the limit."
        )
    if len(listing) <= limit:
        return listing
    labels = listing.labels if listing.told is None else merge_strata(listing.labels)
    return listing.take(draw_stratified(labels, limit, purpose="limit", seed=seed, pieces=listing.pieces))


def _statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 [N, C, H, W], in [0, 1]: exact, by counting pixel values."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for chunk in images.split(4096):
        for channel in range(images.shape[1]):
            counts[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    shares, values = counts / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(_LEAST_STD).tolist())


def _describe_flat(std: Sequence[float]) -> tuple[str, ...]:
    """A note where channels tell nothing of an image."""
    flat = [str(number) for number, each in enumerate(std, 1) if each == _LEAST_STD]
    if not flat:
        return ()
    which = "" if len(flat) == len(std) else f" in channel {', '.join(flat)} of {len(std)}"
    return (
        f"All train images look nearly the same{which}: the deviation is below one step of a pixel. (Transparency "
        "is dropped: what is drawn in it alone is lost.)",
    )
