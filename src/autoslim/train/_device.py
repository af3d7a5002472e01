"""How passes are run on the device that trains."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import torch

from autoslim.train._cpu import CPUConvolutions


def suit(device: torch.device) -> AbstractContextManager[object]:
    """How passes are run: inside `CPUConvolutions` on a CPU, by kernels of cuDNN's that repeat themselves on a GPU."""
    return CPUConvolutions() if device.type == "cpu" else _same_twice()


@contextmanager
def _same_twice() -> Generator[None, None, None]:
    """Kernels of cuDNN's that repeat themselves: a training that is stopped and goes on ends in the same weights."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
