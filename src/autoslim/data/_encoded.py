"""Images that stay encoded, and the worker processes that decode and augment them while the network is at work."""

import os
import random
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from autoslim.data._augment import Shift, ShiftTransform, shift_places
from autoslim.data._images import decode_image
from autoslim.data._listing import Listing, Shape
from autoslim.data._mix import Mix
from autoslim.data._order import Order
from autoslim.data._pieces import Pieces
from autoslim.data._random import sequence_of
from autoslim.data._told import Told
from autoslim.errors import DataError

Transform = Callable[[Image.Image], Image.Image]
Erase = Callable[[torch.Tensor], torch.Tensor]

_ENDS = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True, eq=False)
class Encoded:
    """Images and labels; an image is decoded each time it is asked for.

    Attributes:
        listing: The images.
        shape: (C, H, W) that they are brought to.
        told: Their targets, where these are more than labels.
    """

    listing: Listing
    shape: Shape
    told: Told | None = None

    def __len__(self) -> int:
        return len(self.listing)

    @cached_property
    def labels(self) -> torch.Tensor:
        """int64 [N]."""
        return torch.from_numpy(self.listing.labels)

    @property
    def rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each image stands in its source, shape [N]."""
        return self.listing.rows

    @property
    def pieces(self) -> Pieces | None:
        """How the images lie together, where one can't be read alone."""
        return self.listing.pieces

    def take(self, indices: Any) -> "Encoded":
        """The images at `indices`, in their order."""
        told = None if self.told is None else self.told.take(indices)
        return Encoded(self.listing.take(np.asarray(indices, dtype=np.int64)), self.shape, told)

    def fingerprint(self) -> list[Any]:
        """What tells these images from others: where they stand in their source, and their labels."""
        told = [] if self.told is None else [self.told.values.numpy()]
        return [list(self.shape), self.listing.rows, self.listing.labels, *told]

    def content(self, index: int) -> bytes:
        """One image as its source holds it, nothing if it is missing; and its target."""
        ((_, file),) = self.listing.read([int(self.listing.rows[index])])
        told = b"" if self.told is None else self.told.values[index].numpy().tobytes()
        if isinstance(file, str):
            return (Path(file).read_bytes() if Path(file).is_file() else b"") + told
        return (file if isinstance(file, bytes) else b"" if file is None else np.asarray(file).tobytes()) + told


@dataclass(frozen=True, eq=False)
class DecodingLoader:
    """Batches of images that worker processes decode and augment; see `Loader` for what they are.

    An image's augmentation is drawn from (seed, epoch, image), for Python, numpy and torch alike: the same batches come
    with any number of workers and processes, and from any batch on, those before it not being decoded.

    Attributes:
        split: The images.
        order: Their batches.
        mean: Of each channel, in [0, 1]; subtracted.
        std: Of each channel, above 0; divided by.
        transform: From an image as it is to one of the input size; None: scaled to cover it, and its centre.
        workers: Processes that decode; 0: this one.
        mix: Mixup and cutmix.
        erase: On the normalised image [C, H, W].
    """

    split: Encoded
    order: Order
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: Transform | None
    workers: int
    mix: Mix | None = None
    erase: Erase | None = None

    def __len__(self) -> int:
        return len(self.order)

    @property
    def batch_size(self) -> int:
        return self.order.batch_size

    def epoch(self, number: int, start: int = 0, stride: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """As `Loader.epoch`.

        Raises:
            DataError: An image can't be read, or a worker died.
        """
        places = range(start, len(self), stride)
        parts = [images.tolist() for _, images in self.order.batches(number, start, stride)]
        workers = min(self.workers, len(parts))
        made: DataLoader[Any] = DataLoader(
            _Batches(self, number), batch_size=None, sampler=list(zip(places, parts, strict=True)), num_workers=workers,
            worker_init_fn=_begin, pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own draw of a seed leaves the global generator alone
        )  # fmt: skip
        batches = _start(made)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise DataError(
                    f"A process that decodes images died: {error}. Expected it to live as long as the run. Memory may "
                    'be short: try fewer --workers (in a run that has begun, write "workers": 1 into its run.json); in '
                    "a container give more shared memory (docker run --shm-size 8g). Then go on with --resume."
                ) from error
            if isinstance(batch, _Failure):
                raise DataError(batch.text)
            yield batch


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker; torch would wrap it into a traceback."""

    text: str


class _Batches(Dataset[Any]):
    """The batches of one epoch: asked for by the place in the epoch and the images, numbered as in the split."""

    def __init__(self, loader: DecodingLoader, epoch: int) -> None:
        self._loader, self._epoch = loader, epoch
        self._mean, self._std = (np.array(values, dtype=np.float32) * 255 for values in (loader.mean, loader.std))

    def __getitem__(self, index: tuple[int, Sequence[int]]) -> "tuple[torch.Tensor, torch.Tensor] | _Failure":
        (place, images), loader = index, self._loader
        listing, (channels, height, width) = loader.split.listing, loader.split.shape
        x = torch.empty(len(images), channels, height, width)
        shifts: list[Shift | None] = []
        try:
            files = listing.read(listing.rows[images].tolist())
            for at, (image, file) in enumerate(zip(images, files, strict=True)):
                x[at], shift = self._make(image, *file)
                shifts.append(shift)
        except DataError as error:
            return _Failure(str(error))
        if loader.split.told is not None:
            return x, loader.split.told.moved(np.asarray(images), *shift_places(shifts, height, width))
        labels = torch.from_numpy(listing.labels[images])
        if loader.mix is None:
            return x, labels
        return loader.mix.apply(x, labels, loader.order.seed, self._epoch * len(loader) + place)

    def _make(self, image: int, name: str, file: Any) -> tuple[torch.Tensor, Shift | None]:
        """One image, normalised and augmented, float32 [C, H, W]; and how it was shifted, where it was."""
        loader, shift = self._loader, None
        transform: Any = loader.transform
        chance = loader.transform is not None or loader.erase is not None
        with seeded("augment", loader.order.seed, self._epoch, image) if chance else nullcontext():
            if isinstance(transform, ShiftTransform):
                shift = transform.draw()
                transform = partial(transform.apply, shift=shift)
            pixels = decode_image(name, file, loader.split.shape, transform)
            x = torch.from_numpy((pixels.astype(np.float32) - self._mean) / self._std).permute(2, 0, 1)
            return x if loader.erase is None else loader.erase(x), shift


@contextmanager
def seeded(purpose: str, *numbers: int) -> Generator[None, None, None]:
    """Python's, numpy's and torch's global generators, drawn from these numbers; they are left as they were."""
    draws = sequence_of(purpose, *numbers).generate_state(3)
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(int(draws[0]))
    np.random.seed(int(draws[1]))
    torch.default_generator.manual_seed(int(draws[2]))
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def _start(made: DataLoader[Any]) -> Iterator[Any]:
    """Starts the workers. A dead one is noticed where its batch is awaited, within seconds.

    torch would also raise at whatever line this process happens to be when the system tells it of the death.
    """
    with _signals_blocked():  # a worker begins with the signals blocked that are while it is started
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            return iter(made)
        before = signal.getsignal(signal.SIGCHLD)
        batches = iter(made)
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
        return batches


@contextmanager
def _signals_blocked() -> Generator[None, None, None]:
    """Signals that ask a run to end, to its whole process group, wait until this thread is out of here."""
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(worker: int) -> None:
    """Settings of a worker: one thread, and no ear for signals that are meant for the training.

    The training hears them itself, takes its step, for which it needs the workers, and then ends them.
    """
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        threading.Thread(target=_heed_parent, daemon=True).start()


def _heed_parent() -> None:
    """Ends this worker when its own parent asks for it, as Python does with those that are left when it exits."""
    while True:
        told = signal.sigwaitinfo(_ENDS)
        if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
            os._exit(0)
