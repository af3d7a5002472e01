"""Settings of the process, for whatever starts one: the command line and the benchmarks."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1


def set_process() -> None:
    """Settings that make training on a CPU faster: for the process, never for the reader's shell.

    glibc hands every large tensor back to the system and faults it in again at the next step, half of a small-image
    step's time, unless its thresholds are raised. oneDNN compiles a kernel for each shape and forgets all but the
    last 1,024; a supernet has many more.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGEST)
            mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
