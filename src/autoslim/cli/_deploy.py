"""What `export` works on: a trained network on the disk, and prepared images of the kind that it was trained for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoslim.data import Encoded, Split, hold_out, load_data, make_loader
from autoslim.errors import ConfigError, DataError, RunFolderError
from autoslim.pipeline import Prepared, reopen_job
from autoslim.progress import Shown
from autoslim.ranks import Ranks
from autoslim.tasks import Task, find_task

_BATCH = 250


def find_folder(place: str, network: str) -> Path:
    """The model folder: `place` itself, or that of a run's network.

    Raises:
        RunFolderError: Neither, or a run without such a network.
        ConfigError: A run of several networks, and none is named; or one is named in a model folder.
    """
    folder = Path(place)
    if (folder / "config.json").exists():
        if network:
            raise ConfigError(
                f"{place} is the folder of one network, but --network {network} was given; expected a run's folder "
                "with it. Drop --network, or give the run's folder."
            )
        return folder
    made = folder / "models"
    names = [path.parent.relative_to(made).as_posix() for path in sorted(made.rglob("config.json"))]
    found = [name for name in names if name != "base" and not name.endswith("/uniform")]
    if not names:
        raise RunFolderError(
            f"{place} holds neither a run's networks nor one network; expected `models/` or `config.json` in it. Give "
            "the folder of a run that has got so far, or of a model."
        )
    if network and network not in names:
        raise RunFolderError(
            f"{place} has no network {network!r}; expected one of {', '.join(names)}. Name one of them."
        )
    if not network and len(found) != 1:
        raise ConfigError(
            f"{place} has several networks; expected one of them: {', '.join(names)}. Write --network "
            f"{(found or names)[0]}."
        )
    return made / (network or found[0])


@dataclass(frozen=True)
class Images:
    """Prepared images.

    Attributes:
        told: What they are, in words.
        search: None of them a test image; None: random ones.
        test: For the accuracy.
        task: Judges the network.
    """

    told: str
    search: Split | Encoded | None
    test: Split | Encoded | None
    task: Task
    config: Mapping[str, Any]

    def take(self, count: int) -> torch.Tensor:
        """The first images that are no test images, [N, C, H, W], at most `count`."""
        if self.search is None:
            draw = torch.Generator().manual_seed(0)
            return torch.randn(count, *self.config["input"][1:], generator=draw)
        chosen = self.search.take(torch.arange(min(count, len(self.search))))
        return torch.cat([images for images, _ in self._batches(chosen)]).contiguous()

    def tests(self) -> Prepared:
        """Test images and labels, to be gone through as often as need be."""
        assert self.test is not None  # asked for with real images only
        return self._batches(self.test)

    def _batches(self, split: Split | Encoded) -> Prepared:
        mean, std = (tuple(self.config["normalisation"][name]) for name in ("mean", "std"))
        size = _BATCH if split.told is None else split.told.kind.at_once
        loader = make_loader(split, min(size, len(split)), mean, std)
        return Prepared(loader, torch.device("cpu"), Ranks())


def find_images(folder: Path, config: Mapping[str, Any], *, given: str, random: bool) -> Images:
    """The images to compare on: random, those of a data set or a run that is given, or those of the network's own run.

    Raises:
        DataError: There are none, or they don't fit the network.
    """
    task = find_task(config.get("task", "classification"), sha256=config.get("task_sha256", ""))
    if random:
        return Images("random images", None, None, task, config)
    runs = [Path(given)] if given else list(folder.resolve().parents)
    run = next((path for path in runs if (path / "run.json").exists()), None)
    if run is None and not given:
        raise DataError(
            f"{folder} belongs to no run, so there are no images to compare on; expected real ones. Give --images with "
            "a run's folder or a data set (digits, folder:PATH, hf:NAME, path/to/file.py:factory), or --random for "
            "random ones."
        )
    if run is not None:
        try:
            job = reopen_job(run, shown=Shown(quiet=True))
        except DataError as error:
            raise DataError(
                f"{error} This command also takes other images: give --images with a data set (digits, folder:PATH, "
                "hf:NAME, path/to/file.py:factory), or --random for random ones."
            ) from error
        told, data, search = f"search images of {run.name}", job.data, job.search_split
    else:
        _, channels, height, width = config["input"]
        seed = int(config.get("seed", 0))  # or its test images would be others than those it was not trained on
        data = load_data(given, input_shape=(channels, height, width), targets=task.targets, seed=seed)
        told, search = f"train images of {given}", hold_out(data.train, seed=seed)[1]
    if [1, *data.input_shape] != list(config["input"]) or data.num_classes != len(config["classes"]):
        raise DataError(
            f"{told}: {data.num_classes} classes, input {list(data.input_shape)}; expected "
            f"{len(config['classes'])} classes and {config['input'][1:]}, as {folder} was trained on. Give others."
        )
    _check_classes(told, data.classes, tuple(config["classes"]), folder)
    return Images(told, search, data.test, task, config)


def _check_classes(told: str, found: tuple[str, ...], known: tuple[str, ...], folder: Path) -> None:
    """Raises DataError for images of as many, but other classes; mere numbers name none."""
    numbers = tuple(map(str, range(len(known))))
    odd = [pair for pair in zip(found, known, strict=True) if pair[0] != pair[1]]
    if odd and numbers not in (found, known):
        raise DataError(
            f"{told}: {odd[0][0]!r} stands among the classes where {folder} was trained on {odd[0][1]!r}; expected the "
            "same classes in the same order. Give others."
        )
