"""What a search costs: every pass on every image, counted where operators run; and the seconds it took."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.baselines import MacCounter
from autoslim.errors import RunFolderError
from autoslim.run_folder import write_whole


@dataclass(frozen=True)
class Spent:
    """Multiply-accumulates of all passes on all images, and seconds."""

    image_macs: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.image_macs + other.image_macs, self.seconds + other.seconds)

    def to_json(self) -> dict[str, Any]:
        return {"_type": "Spent", "_version": 1, **vars(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Spent":
        """The inverse of `to_json`; other fields are passed over."""
        return cls(data["image_macs"], data["seconds"])


class Meter:
    """Counts all that runs inside it.

    With a file it counts a training that may be stopped and go on: what was spent after each step is a line, and a
    training that goes on from a checkpoint goes on from the line of that step. So each step counts once, as it was
    kept, and the count is the same as without the stop.

    Args:
        file: Of the lines; `step` writes them.

    >>> import torch
    >>> with Meter() as meter:
    ...     y = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> meter.spent.image_macs
    24.0
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._counter = file, MacCounter()
        self._before: Spent | None = None  # what earlier sessions spent on the steps that were kept

    def __enter__(self) -> "Meter":
        self._started = time.monotonic()
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)
        if self._file is not None and self._before is None and error[0] is None:
            self._before = self._go_on(max(len(self._lines()), 1))  # no step was left to take
        self.spent = self._now()

    def step(self, loss: float, done: int) -> None:
        """Notes what is spent, after `done` steps of the training."""
        assert self._file is not None  # a meter without a file has no steps
        if self._before is None:
            self._before = self._go_on(done - 1)
        now = self._now()
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps([done, now.image_macs, now.seconds]) + "\n")

    def _now(self) -> Spent:
        return (self._before or Spent()) + Spent(self._counter.macs, time.monotonic() - self._started)

    def _lines(self) -> list[tuple[int, Spent]]:
        if self._file is None or not self._file.exists():
            return []
        whole = self._file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()  # a kill may tear the last
        return [(done, Spent(macs, seconds)) for done, macs, seconds in map(json.loads, whole)]

    def _go_on(self, step: int) -> Spent:
        """What was spent up to a step; the lines after it are of steps that were not kept."""
        assert self._file is not None
        kept = self._lines()[:step]
        if len(kept) < step:
            raise RunFolderError(
                f"{self._file} tells what {len(kept)} steps cost, and the training goes on after step {step}; expected "
                "a line for each step. Delete the folder of this seed, to measure it anew."
            )
        text = "".join(json.dumps([done, *vars(spent).values()]) + "\n" for done, spent in kept)
        write_whole(self._file, lambda aside: aside.write_text(text, encoding="utf-8"))
        return kept[-1][1] if kept else Spent()
