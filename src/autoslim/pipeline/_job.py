"""One run at work: what its stages share."""

import hashlib
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim.budget import MEASURED
from autoslim.data import Data, DecodingLoader, Encoded, Loader, Split, describe_size, draw_images
from autoslim.extract import extract_network, replace_tensors_
from autoslim.graph import ChannelGraph
from autoslim.pipeline._batches import Prepared, ordered_batches, training_batches
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._launch import join_ranks, make_fabric
from autoslim.pipeline._networks import Networks
from autoslim.pipeline._scores import Remembered, key_of
from autoslim.pipeline._task import describe_task, open_task
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder
from autoslim.score import SupernetScorer
from autoslim.search import Cost, Space, check_budgets
from autoslim.supernet import Supernet
from autoslim.train import OnStep, TrainConfig
from autoslim.widths import Widths

_CALIBRATION = 1000  # train images for BatchNorm statistics: whole batches


class Job:
    """A run's images, networks, costs and scores, made when they are first asked for.

    The stages are functions of a job, in the order of `run`; what the first of them sets is declared here.

    Attributes:
        data: Train and test images.
        networks: Builds the user's own network and the one that is searched.
        builder: Who builds the user's own, as files have it.
        model: The network that is searched; `graph` its channel graph, `own` the widths at which it is the user's.
        costs: Per metric; `base` what the user's own network costs.
        train_split: Train without the search images, which are `search_split`.
        splits: Which images these are, as files have it.
    """

    folder: RunFolder
    data: Data
    networks: Networks
    builder: dict[str, Any]
    model: nn.Module
    graph: ChannelGraph
    own: Widths
    costs: dict[str, Cost]
    base: dict[str, float]
    train_split: Split | Encoded
    search_split: Split | Encoded
    splits: dict[str, Any]

    def __init__(self, config: RunConfig, shown: Shown, command: str, given: Any = None) -> None:
        self.ranks = join_ranks()
        self.config, self.command, self.given = config, command, given
        self.shown = shown if self.ranks.first else Shown(quiet=True)
        self.task = open_task(config)
        self.spent: dict[str, float] = {}
        self.notes: list[str] = []
        self.trained = False
        self.on_step: OnStep = lambda loss, done: None  # told of every training step, beside the bar

    def check_budgets(self) -> None:
        """Refuses budgets that can't be met, before anything is written."""
        check_budgets(self.space, self.costs, self.config.budgets, self.base)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one that was stopped; plain JSON."""
        graph = json.dumps(self.graph.to_json(), sort_keys=True).encode()
        task = describe_task(self.config)
        data = [len(self.data.train), *(v for name, v in self.preparation.items() if name not in ("seed", *task))]
        return json.loads(
            json.dumps(
                {
                    "network": self.builder,
                    "graph": hashlib.sha256(graph).hexdigest(),
                    "data": data,
                    **({"task": list(task.values())} if task else {}),
                }
            )
        )

    @property
    def preparation(self) -> dict[str, Any]:
        return {
            "classes": list(self.data.classes),
            "input": [1, *self.data.input_shape],
            "normalisation": {"mean": list(self.data.mean), "std": list(self.data.std)},
            "resize": self.data.resize,
            "seed": self.config.seed,  # of the split, where the data have none
            **describe_task(self.config),
        }

    def price(self, widths: Widths) -> dict[str, float]:
        """Every cost of these widths: whole numbers, told as such, and milliseconds."""
        return {name: cost(widths) if name in MEASURED else int(cost(widths)) for name, cost in self.costs.items()}

    @property
    def space(self) -> Space:
        return Space.of(self.graph.groups)

    # networks ---------------------------------------------------------------------------------------------------------

    @cached_property
    def net(self) -> Supernet:
        """All sub-networks in one; untrained before `obtain_supernet`."""
        return Supernet(self.model, self.graph).to(self.fabric.device)

    @property
    def supernet_path(self) -> Path:
        return self.folder.path / "supernet.safetensors"

    def start(self, widths: Widths) -> nn.Module:
        """The extracted network with the weights it starts from, on the device of the run."""
        fresh = self.config.retrain == "scratch"
        return self.place(self.networks.build_slim(widths) if fresh else self.inherit(widths))

    def place(self, model: nn.Module) -> nn.Module:
        """A network where all of the run's are: on its device, in its layout; the module itself, changed."""
        return model.to(self.fabric.device, memory_format=self.networks.layout)  # pyright: ignore[reportCallIssue]

    def inherit(self, widths: Widths) -> nn.Module:
        """The sub-network as it is in the supernet, with BatchNorm statistics of its own."""
        small = extract_network(self.model, self.graph, widths)
        replace_tensors_(small, self.fresh_scorer.buffers(widths))
        return small

    # scores -----------------------------------------------------------------------------------------------------------

    @cached_property
    def judges(self) -> Split | Encoded:
        """The search images that decide."""
        return draw_images(self.search_split, self.config.search_images, seed=self.config.seed)

    @cached_property
    def calibration(self) -> Split | Encoded:
        """The train images that give a sub-network its BatchNorm statistics."""
        return draw_images(self.train_split, _CALIBRATION, seed=self.config.seed)

    @cached_property
    def fresh_scorer(self) -> SupernetScorer:
        """Scores sub-networks, and remembers nothing."""
        images = [x for x, _ in self.batches(self.calibration, whole=True)]
        judged = self.batches(self.judges, kept=True)
        if isinstance(self.judges, Encoded):
            size, kept = describe_size(len(self.judges), self.judges.shape), isinstance(judged.loader.split, Split)
            how = "are kept in memory" if kept else "do not fit into memory, and are decoded at each evaluation"
            self.shown.line(f"data      {len(self.judges)} search images, {size} decoded, {how}")
        return SupernetScorer(self.net, self.task, calibration=images, search=judged)

    @cached_property
    def scorer(self) -> Remembered:
        """Scores sub-networks of the trained supernet, none of them twice."""
        key = key_of(self.supernet_path, self.calibration, self.judges)
        sizes = {"images": len(self.judges), "calibration": len(self.calibration)}
        return Remembered(self.fresh_scorer, self.folder, key=key, macs=self.costs["macs"], **sizes)

    # images and time --------------------------------------------------------------------------------------------------

    @cached_property
    def fabric(self) -> Any:
        return make_fabric(self.config.train.precision)

    @property
    def sharing(self) -> dict[str, Any]:
        return {"ranks": self.ranks, "workers": self.config.num_workers}

    def loader(self, split: Split | Encoded, train: TrainConfig | None = None) -> Loader | DecodingLoader:
        device, config = self.fabric.device, train or self.config.train
        return training_batches(self.data, split, config, device, seed=self.config.seed, **self.sharing)

    def batches(self, split: Split | Encoded, *, whole: bool = False, kept: bool = False) -> Prepared:
        return ordered_batches(self.data, split, self.fabric.device, whole=whole, kept=kept, **self.sharing)

    @contextmanager
    def timed(self, stage: str, place: RunFolder | None = None) -> Generator[None, None, None]:
        """Notes how long a stage took, in the `times.jsonl` of the run or of another place."""
        started = time.monotonic()
        try:
            yield
        finally:  # a stage that is broken off has taken its time, too
            self.spent[stage] = time.monotonic() - started
            (place or self.folder).append("times.jsonl", {"stage": stage, "seconds": self.spent[stage]})
        self.ranks.wait()  # the next stage reads what this one left

    def took(self, stage: str) -> str:
        return f"{self.spent[stage]:.0f} s"

    @contextmanager
    def seeded(self) -> Generator[None, None, None]:
        """Dropout and the like draw from the seed, and the caller's random state is left as it was."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            yield
