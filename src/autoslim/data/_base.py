"""Takes the name of some labelled images, gives them decoded: train and test, in memory, of one shape.

A source, one file of this shelf each, only lists images and labels. What holds for all of them is here: the checks, the
split that is made where none came along, decoding, and the statistics of the channels.
"""

import atexit
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from autoslim._registry import Registry, unknown_name
from autoslim.data._encoded import Encoded
from autoslim.data._images import decode_listing, describe_resize, find_shape
from autoslim.data._listing import (
    File,
    Found,
    Listing,
    Shape,
    check_labels,
    check_pairs,
    check_readable,
    describe_excess,
)
from autoslim.data._random import draw_stratified, sequence_of
from autoslim.errors import DataError

_TEST_SHARE = 0.2  # of the images, where no test split came along
_SAMPLE, _SAMPLE_BYTES = 5000, 2**29  # images that the statistics are taken of, where not all are decoded
_LEAST_STD = 1 / 255  # one step of a pixel: a constant channel must not divide by zero


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels, decoded.

    Attributes:
        images: uint8 [N, C, H, W], contiguous.
        labels: int64 [N].
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if (images.dtype, images.dim(), labels.dtype) != (torch.uint8, 4, torch.int64) or not images.is_contiguous():
            raise DataError(
                f"Split: images {images.dtype} {list(images.shape)}, labels {labels.dtype} {list(labels.shape)}; "
                "expected contiguous uint8 [N, C, H, W] and int64 [N]. Convert them first."
            )
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"Split: {len(images)} images but labels of shape {list(labels.shape)}; expected [{len(images)}]. "
                "Give each image one label."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, indices: "torch.Tensor | NDArray[np.int64] | Sequence[int]") -> "Split":
        """The images at `indices`, in their order, copied."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return Split(self.images[chosen], self.labels[chosen])

    def encoded(self) -> Encoded:
        """The same images for worker processes, which share this one's memory."""
        pixels = self.images.numpy().transpose(0, 2, 3, 1)

        def read(rows: Sequence[int]) -> Sequence[tuple[str, File]]:
            return [(f"image {row}", pixels[row].squeeze(2) if pixels.shape[3] == 1 else pixels[row]) for row in rows]

        return Encoded(Listing(np.arange(len(self)), self.labels.numpy(), read), self.shape)

    def fingerprint(self) -> list[Any]:
        """What tells these images from others: all of them, and their labels."""
        return [list(self.images.shape), self.images.numpy(), self.labels.numpy()]


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled images, ready to be trained on.

    Attributes:
        name: The spec they were loaded from.
        train: For training; the images that decide the search are held out of it with `hold_out`.
        test: For the final table only.
        classes: The name of each label.
        mean: Of each channel of the train images, in [0, 1].
        std: Likewise; never 0.
        resize: How images were brought to the input size, in words; "none" if all had it.
        notes: What the user must be told: a split that was made, images that were left out.
    """

    name: str
    train: Split | Encoded
    test: Split | Encoded
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    notes: tuple[str, ...]

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


def load_data(spec: str, *, input_shape: Shape | None = None, seed: int = 0, limit: int | None = None) -> Data:
    """Finds labelled images, and loads them into memory where they fit: up to 8 GiB decoded.

    Others stay where they are, and are decoded when they are needed; `train` and `test` are then `Encoded`.

    >>> data = load_data("digits")
    >>> data.input_shape, data.num_classes, len(data.train), len(data.test)
    ((1, 8, 8), 10, 1438, 359)

    Args:
        spec: "digits", "folder:PATH" (one folder per class, in train/ and test/ or not), or "hf:NAME_OR_FOLDER" (a
            data set of the Hugging Face hub, or a folder that its `datasets` library reads).
        input_shape: (C, H, W) that all images are brought to, C being 1 or 3; by default it follows from the images.
        seed: Of the test split, where one must be made, and of `limit`.
        limit: At most so many images of each split, the classes in proportion; by default all.

    Raises:
        UnknownNameError: No such source; the message lists the closest.
        DataError: Images or labels that are missing, unreadable or contradictory.
    """
    source, _, place = spec.partition(":")
    if source not in SOURCES:
        hint = "Write digits, folder:PATH or hf:NAME_OR_FOLDER."
        raise unknown_name(SOURCES.kind, source, list(SOURCES), hint=hint)
    _check_shape(spec, input_shape)
    with ExitStack() as opened:
        found = opened.enter_context(SOURCES[source](place))
        check_labels(spec, found)
        train, test, notes = _divide(spec, found, seed)
        if limit is not None:
            train, test = (_limit(spec, part, found.classes, limit, seed) for part in (train, test))
            notes = (*notes, f"Limited to {len(train)} train and {len(test)} test images, drawn with seed {seed}.")
        if input_shape is None:
            input_shape, note = find_shape((train, test))
            notes = (*notes, note) if note else notes
        if too_large := describe_excess(len(train) + len(test), input_shape):
            atexit.register(opened.pop_all().close)  # the images are read for as long as the process lives
            return _leave_encoded(spec, train, test, input_shape, found.classes, (*notes, too_large), seed)
        parts: list[Split] = []
        resized = False
        for part, listing in (("train", train), ("test", test)):
            where, decoded = f"{spec}, {part}", decode_listing(listing, input_shape)
            notes = (*notes, *check_readable(where, decoded.failed, listing.labels, decoded.kept, found.classes))
            parts.append(Split(decoded.images, torch.from_numpy(listing.labels[decoded.kept])))
            resized = resized or decoded.resized
    mean, std = _statistics(parts[0].images)
    resize = describe_resize(input_shape) if resized else "none"
    return Data(spec, parts[0], parts[1], found.classes, mean, std, resize, notes)


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
    labels = train.labels.numpy()
    check_pairs("hold_out", labels, None)
    count = max(min(round(share * len(train)), most), 1)
    chosen = draw_stratified(labels, count, purpose="hold out", seed=seed, spare=1)
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    return train.take(rest), train.take(chosen)  # pyright: ignore[reportReturnType]


def _leave_encoded(
    spec: str,
    train: Listing,
    test: Listing,
    shape: Shape,
    classes: tuple[str, ...],
    notes: tuple[str, ...],
    seed: int,
) -> Data:
    """Data whose images are not decoded but for a sample, which gives the channels' statistics."""
    count = min(_SAMPLE, len(train), max(_SAMPLE_BYTES // math.prod(shape), 1))
    drawn = np.sort(np.random.default_rng(sequence_of("statistics", seed)).permutation(len(train))[:count])
    sample = decode_listing(train.take(drawn), shape)
    check_readable(f"{spec}, train", sample.failed, train.labels[drawn], sample.kept, classes)
    mean, std = _statistics(sample.images)
    told = f"Mean and standard deviation are those of {count} train images, drawn with seed {seed}."
    resize = describe_resize(shape) if sample.resized else "none"
    return Data(spec, Encoded(train, shape), Encoded(test, shape), classes, mean, std, resize, (*notes, told))


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
    total = len(found.train)
    check_pairs(spec, found.train.labels, found.classes)
    chosen = draw_stratified(found.train.labels, round(_TEST_SHARE * total), purpose="test split", seed=seed, spare=1)
    note = (
        f"No test split came along: {len(chosen)} of the {total} images are set aside as test, the classes in "
        f"proportion, drawn with seed {seed}."
    )
    rest = np.setdiff1d(np.arange(total), chosen)
    return found.train.take(rest), found.train.take(chosen), (*found.notes, note)


def _limit(spec: str, listing: Listing, classes: Sequence[str], limit: int, seed: int) -> Listing:
    if limit < len(classes):
        raise DataError(
            f"{spec}: a limit of {limit} images is less than one for each of the {len(classes)} classes; expected "
            f"at least {len(classes)}. Raise the limit."
        )
    if len(listing) <= limit:
        return listing
    return listing.take(draw_stratified(listing.labels, limit, purpose="limit", seed=seed))


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
