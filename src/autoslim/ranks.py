"""The processes that share one run: which of them this is, and what they tell each other.

A process alone is rank 0 of 1, and all of this does nothing then.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from autoslim.errors import RanksError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that torch.distributed has started.

    >>> Ranks().first, Ranks().share(10)
    (True, slice(0, 10, None))
    >>> Ranks(rank=1, size=3).share(10)
    slice(3, 6, None)

    Attributes:
        rank: The number of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """This process; alone unless torch.distributed was initialised."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` items are this process's: a run of them, and all processes' runs together are all items."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds up the tensors of all processes, in place."""
        if self.size > 1:
            with self._together():
                distributed.all_reduce(tensor)
        return tensor

    def gather(self, value: _T) -> list[_T]:
        """What every process gives, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[_T | None] = [None] * self.size
        with self._together():
            distributed.all_gather_object(values, value)
        return values  # pyright: ignore[reportReturnType]

    def tell(self, value: _T) -> _T:
        """What the first process gives, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        with self._together():
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            with self._together():
                distributed.barrier()

    def average_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Puts the mean over all processes into tensors of one type each, in one message per type."""
        if self.size == 1:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for same in kinds.values():
            flat = self.sum_(torch.cat([tensor.reshape(-1) for tensor in same])).div_(self.size)
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @contextmanager
    def _together(self) -> Generator[None, None, None]:
        """What all processes do at once; RanksError where one of them is gone."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RanksError(
                f"Process {self.rank} of {self.size} has lost the others: {str(error).splitlines()[0]}. Expected all "
                "of them to live as long as the run: one was killed or has failed, and says why in its own output. "
                "Start all again, and go on with autoslim run --resume DIR."
            ) from error
