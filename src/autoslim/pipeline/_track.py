"""Where the figures of a training go while it runs: TensorBoard or CSV files in the run's folder, or a service.

They are for the eye. Nothing is read back; a disk that is full or a service that fails ends them, not the training.
"""

import contextlib
import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from autoslim._extras import install_extra
from autoslim.errors import ConfigError
from autoslim.run_folder import write_whole
from autoslim.train import Tracker

TrackerName = Literal["tensorboard", "csv", "wandb", "mlflow", "none"]
_NEEDS = {"wandb": ("wandb", "pytorch_lightning"), "mlflow": ("mlflow", "pytorch_lightning")}
_EVERY = 2.0  # seconds between two flushes


class Place(Tracker, Protocol):
    """Where figures go."""

    def close(self) -> None: ...


class TensorBoardFile:
    """An event file of its own for each session; `tensorboard --logdir RUN/metrics` shows them as one curve.

    Written by tensorboardX's record writer in this thread: its summary writer has one of its own, which dies on a full
    disk and leaves the training waiting for it.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event: Any = Event
        self._file: Any = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"))
        self._flushed = time.monotonic()
        self._put(file_version="brain.Event:2")

    def restart(self, step: int) -> None:
        self._put(step=step, session_log={"status": "START"})  # TensorBoard forgets what came from this step on

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._put(step=step, summary={"value": [{"tag": tag, "simple_value": value} for tag, value in values.items()]})
        if time.monotonic() - self._flushed > _EVERY:
            self._flushed = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _put(self, **fields: Any) -> None:
        self._file.write(self._event(wall_time=time.time(), **fields).SerializeToString())


class CsvFile:
    """One file, a line per step."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "steps.csv"
        self._lines: list[str] = []
        self._flushed = time.monotonic()

    def restart(self, step: int) -> None:
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and _is_before(line, step)]
        write_whole(self._path, lambda aside: aside.write_text("".join(kept)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._lines and (not self._path.exists() or self._path.stat().st_size == 0):
            self._lines.append(",".join(["step", *values]) + "\n")
        self._lines.append(",".join([str(step), *map(repr, values.values())]) + "\n")
        if time.monotonic() - self._flushed > _EVERY:
            self._flush()

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        lines, self._lines, self._flushed = self._lines, [], time.monotonic()
        with self._path.open("a") as file:
            file.writelines(lines)


class Service:
    """Weights & Biases or MLflow, through the loggers that Lightning has for Fabric."""

    def __init__(self, name: str, folder: Path, run: str, stage: str) -> None:
        loggers: Any = importlib.import_module("pytorch_lightning.loggers")
        folder.mkdir(parents=True, exist_ok=True)
        title, place = f"{run}: {stage}", str(folder)
        self._ends = name == "wandb"
        self._logger: Any = (
            loggers.WandbLogger(name=title, project="autoslim", save_dir=place)
            if name == "wandb"
            else loggers.MLFlowLogger(experiment_name="autoslim", run_name=title, save_dir=place)
        )

    def restart(self, step: int) -> None:
        pass  # a new run of the service: what an earlier session sent stays there

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._logger.log_metrics(dict(values), step)

    def close(self) -> None:
        self._logger.finalize("success")
        if self._ends:
            self._logger.experiment.finish()  # or the next training would go on in this run


def check_tracker(name: TrackerName) -> None:
    """Raises ConfigError if a package that a tracker needs is not installed."""
    missing = [package for package in _NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"RunConfig.tracker is {name!r}, which needs {' and '.join(missing)}: not installed here. Expected them or "
            f"another tracker. Install them with {install_extra('trackers')}, or write --tracker tensorboard."
        )


@contextlib.contextmanager
def open_tracker(
    name: TrackerName, folder: Path, stage: str, tell: Callable[[str], None]
) -> Generator[Tracker | None, None, None]:
    """The tracker of one training, closed on leaving; None if none is wanted or its files can't be written.

    Args:
        name: Which.
        folder: Of the run; files go below its `metrics`.
        stage: Of the run: a path.
        tell: Where it is told that the disk is full.
    """
    place = folder / "metrics" / stage
    tracker: _Guarded | None = None
    errors: tuple[type[Exception], ...] = (OSError,)
    try:
        if name == "tensorboard":
            tracker = _Guarded(TensorBoardFile(place), tell)
        elif name == "csv":
            tracker = _Guarded(CsvFile(place), tell)
        elif name != "none":
            errors = (Exception,)  # its own kinds: no network, nobody logged in
            tracker = _Guarded(Service(name, folder / "metrics", folder.name, stage), tell, errors)
    except errors as error:
        tell(_broken(error))
    try:
        yield tracker
    finally:
        if tracker is not None:
            tracker.close()


class _Guarded:
    """A tracker that is given up, told once, when its figures can't be written."""

    def __init__(
        self, tracker: Place, tell: Callable[[str], None], errors: tuple[type[Exception], ...] = (OSError,)
    ) -> None:
        self._tracker: Place | None = tracker
        self._tell, self._errors = tell, errors

    def restart(self, step: int) -> None:
        self._do(lambda tracker: tracker.restart(step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._do(lambda tracker: tracker.write(step, values))

    def close(self) -> None:
        self._do(lambda tracker: tracker.close())

    def _do(self, action: Callable[[Place], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except self._errors as error:
            self._tell(_broken(error))
            with contextlib.suppress(*self._errors):
                self._tracker.close()
            self._tracker = None


def _broken(error: Exception) -> str:
    return f"metrics   can't be written: {error}; this training goes on without"


def _is_before(line: str, step: int) -> bool:
    first = line.split(",")[0]
    return not first.isdecimal() or int(first) < step
