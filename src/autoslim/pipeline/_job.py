"""The stages of one run at work, in their order; each leaves a file that the next one reads."""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim.costs import COSTS, make_cost
from autoslim.data import Data, DecodingLoader, Encoded, Loader, Split, describe_size, draw_images, hold_out
from autoslim.extract import extract_network, replace_tensors_
from autoslim.models import describe_model
from autoslim.pipeline._batches import Prepared, open_data, ordered_batches, training_batches
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._finalists import choose_finalists
from autoslim.pipeline._guess import tell_tested, tell_widest
from autoslim.pipeline._launch import join_ranks, make_fabric
from autoslim.pipeline._networks import Networks
from autoslim.pipeline._scores import Remembered, key_of
from autoslim.pipeline._search import LATENCY, keep_latency, obtain_latency, search_budgets
from autoslim.pipeline._splits import list_splits, write_splits
from autoslim.pipeline._task import check_network, describe_task, open_task, summary_of
from autoslim.pipeline._training import FOLDER, retrain_network, train_whole_supernet
from autoslim.pipeline._uniform import find_uniform, say_uniform
from autoslim.progress import Shown
from autoslim.report import write_report
from autoslim.report.text import say_count
from autoslim.run_folder import RunFolder, read_json, remove_folder, write_json
from autoslim.saved import load, load_tensors_, save_network
from autoslim.score import Batch, SupernetScorer, evaluate
from autoslim.search import Cost, Found, Space, check_budgets
from autoslim.supernet import Supernet
from autoslim.train import OnStep, TrainConfig, Trained
from autoslim.widths import Widths

_STAGES = ("trace", "train", "search", "finalists", "retrain")
_CALIBRATION = 1000  # train images for BatchNorm statistics: whole batches


class Job:
    """One run at work: what the stages share. Each stage is a method, in the order of `finish`."""

    folder: RunFolder

    def __init__(self, config: RunConfig, shown: Shown, command: str, given: Any = None) -> None:
        self.ranks = join_ranks()
        self.config, self.command, self.given = config, command, given
        self.shown = shown if self.ranks.first else Shown(quiet=True)
        self.task = open_task(config)
        self.spent: dict[str, float] = {}
        self.notes: list[str] = []
        self.trained = False
        self.obtained: dict[Widths, Path] = {}  # networks that are trained, and where they are
        self.on_step: OnStep = lambda loss, done: None  # told of every training step, beside the bar

    def finish(self) -> Path:
        """All stages after `prepare`; a stage whose file is there is not run again."""
        write_json(self.folder.path / "graph.json", self.graph.to_json())
        write_splits(self.folder.path, self.splits)
        for stage, seconds in self.spent.items():
            self.folder.append("times.jsonl", {"stage": stage, "seconds": seconds})
        self.train_supernet()
        tell_widest(self)
        keep_latency(self, self.folder)
        found = self.choose_finalists(search_budgets(self))
        with self.timed("retrain"):
            places = self.retrain(found)
        write_json(self.folder.path / "summary.json", self.test(found, places))
        if self.ranks.first:
            remove_folder(self.folder.path / FOLDER)
            self.shown.line(f"report    {write_report(self.folder.path)}")
        self.ranks.wait()  # whoever called may read the summary at once
        return self.folder.path

    # 1. trace ------------------------------------------------------------------------------------------------------

    def prepare(self, check: Callable[[], None] = lambda: None, *, trained: bool = False) -> None:
        """Loads the data, builds and traces the model, and measures latency where a budget limits it.

        `check` is called before that: it may refuse a network or images that are not those of before. Where the
        supernet is `trained`, the weights that it started from are not read again.
        """
        config = self.config
        self.data: Data = open_data(config, self.given, self.task)
        self.config = config = replace(config, data=self.data.name)  # a run that is resumed reads the same commit
        for note in self.data.notes:
            self.shown.line(f"data      {note}")
        classes, shape = self.data.num_classes, self.data.input_shape
        self.builder = describe_model(config.model, num_classes=classes, in_channels=shape[0])
        started = time.monotonic()
        start = replace(config, from_weights="") if trained else config
        self.networks = Networks(start, self.task, num_classes=classes, input_shape=shape)
        self.model, self.graph, self.own = self.networks.model, self.networks.graph, self.networks.own
        self.spent["trace"] = time.monotonic() - started
        self.costs: dict[str, Cost] = {name: make_cost(name, self.graph) for name in COSTS}
        self.base = self.price(self.own)
        frozen = [group for group in self.graph.groups if group.frozen is not None]
        macs, least = self.base["macs"], self.costs["macs"](self.graph.min_widths())
        self.shown.line(
            f"trace     {len(self.graph.groups)} channel groups ({len(frozen)} frozen), {say_count(macs)} MACs, "
            f"{say_count(self.base['params'])} parameters; narrowest {least / macs:.1%} of the MACs"
        )
        if config.widen > 1:
            self.shown.line(f"widen     {self.start_note}")
        check_network(self)
        self.train_split, self.search_split = hold_out(
            self.data.train, most=max(config.search_images, 10_000), seed=config.seed
        )
        parts = {"train": self.train_split, "search": self.search_split, "test": self.data.test}
        self.splits = list_splits(self.data.files, **parts)
        check()
        if config.latency_limited:
            self.costs[LATENCY], self.base[LATENCY] = obtain_latency(self)

    def check_budgets(self) -> None:
        """Refuses budgets that can't be met, before anything is written."""
        check_budgets(self.space, self.costs, self.config.budgets, self.base)

    @property
    def start_note(self) -> str:
        """From where a run with `widen` searches."""
        macs = say_count(self.costs["macs"](self.graph.max_widths()))
        return f"The search starts from your network {self.config.widen:g}x as wide: {macs} MACs."

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

    def price(self, widths: Widths) -> dict[str, float]:
        """Every cost of these widths: whole numbers, told as such, and milliseconds."""
        return {name: cost(widths) if name == LATENCY else int(cost(widths)) for name, cost in self.costs.items()}

    @property
    def space(self) -> Space:
        groups = self.graph.groups
        candidates, atoms = {g.name: g.candidates for g in groups}, {g.name: g.atom for g in groups}
        return Space(candidates, atoms, {g.name: g.allowed for g in groups})

    # 2. train ------------------------------------------------------------------------------------------------------

    def train_supernet(self) -> None:
        """Trains all sub-networks in one, on train without the search images."""
        if self.supernet_path.exists():
            load_tensors_(self.supernet_path, self.model)
            self.place(self.net)
        else:
            train_whole_supernet(self)
        self.trained = True

    @cached_property
    def net(self) -> Supernet:
        """All sub-networks in one; untrained before `train_supernet`."""
        return Supernet(self.model, self.graph).to(self.fabric.device)

    @property
    def supernet_path(self) -> Path:
        return self.folder.path / "supernet.safetensors"

    # 3. search -----------------------------------------------------------------------------------------------------

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

    def choose_finalists(self, found: list[Found]) -> list[Found]:
        """With `finalists`, what is best after a short training alone; else what was found."""
        if self.config.finalists:
            with self.timed("finalists"):
                found, notes = choose_finalists(self, found)
                self.notes += notes
            self.shown.line(f"finalists {self.took('finalists')}")
        return found

    # 4. extract and retrain ----------------------------------------------------------------------------------------

    def retrain(self, found: list[Found]) -> dict[str, Path]:
        """Trains the user's own network, what was found for each budget, and its uniform counterpart."""
        places: dict[str, Path] = {}
        wanted = self.config.baselines.split(",")
        if "base" in wanted and self.config.retrain != "none":
            places["base"] = self.obtain("models/base", self.own, {})
        for each in found:
            folder = f"models/{each.budget.slug}"
            places[each.budget.slug] = self.obtain(folder, each.widths, {"budget": each.budget.text})
            if "uniform" in wanted and self.config.retrain != "none":
                beside = find_uniform(self, each)
                told = say_uniform(beside, measured=each.budget.measured)
                self.shown.line(f"uniform   {each.budget.text}: {told}")
                facts = {**beside.facts, "gap": beside.gap}
                places[f"{each.budget.slug}/uniform"] = self.obtain(f"{folder}/uniform", beside.widths, facts)
        return places

    def obtain(self, folder: str, widths: Widths, facts: Mapping[str, Any]) -> Path:
        """A trained network of these widths, on the disk; one that is there already is left alone."""
        path = self.folder.path / folder
        twin = self.obtained.setdefault(widths, path)
        if (path / "metrics.json").exists():
            return path
        small, trained, checkpoints = self.start(widths), Trained([], 0), None
        if twin != path and self.config.retrain != "none":  # it would be trained to the same weights once more
            load_tensors_(twin / "model.safetensors", small)
            metrics = read_json(twin / "metrics.json", kind="Metrics")
            trained = Trained(metrics["losses"], metrics["skipped_steps"])
            self.shown.line(f"retrain   {folder}: the widths of {twin.relative_to(self.folder.path)}, trained already")
        elif self.config.retrain != "none":
            trained, checkpoints = retrain_network(self, small, folder)
        save_network(
            path,
            small,
            builder=self.builder,
            attributes=self.graph.attributes(widths),
            widths=widths,
            preparation=self.preparation,
            metrics={**facts, **self.price(widths), "losses": trained.losses, "skipped_steps": trained.skipped},
        )
        self.ranks.wait()  # what the first has written, all may read
        if checkpoints is not None:
            checkpoints.remove()
        return path

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

    # 5. test -------------------------------------------------------------------------------------------------------

    def test(self, found: list[Found], places: Mapping[str, Path]) -> dict[str, Any]:
        """Reads the test set, once, and puts everything into the summary."""
        batches = self.batches(self.data.test)
        trained = self.config.retrain != "none"
        tested = {slug: self.test_network(path, batches) if trained else None for slug, path in places.items()}
        own, key = tested.get("base"), self.task.metric.key
        if own is not None:
            at = f"{say_count(self.base['macs'])} MACs"
            self.shown.line(f"test      your own network: {self.task.metric.tell(own)} at {at}")
        rows: list[dict[str, Any]] = []
        for each in found:
            slug = each.budget.slug
            supernet = self.fresh_scorer.judge(each.widths, batches)
            worth = {"search": each.score.accuracy, "supernet": supernet.accuracy, "test": tested[slug]}
            row: dict[str, Any] = {"budget": each.budget.text, "folder": f"models/{slug}", "widths": dict(each.widths)}
            row |= {**self.price(each.widths), key: self.turned(worth)}
            if f"{slug}/uniform" in places:
                metrics = read_json(places[f"{slug}/uniform"] / "metrics.json", kind="Metrics")
                row["uniform"] = {
                    **{name: metrics[name] for name in ("ratio", *self.costs)},
                    **({"note": metrics["note"]} if "note" in metrics else {}),
                    key: self.turned({"test": tested[f"{slug}/uniform"]}),
                }
            rows.append(row)
            self.tell(row, worth, tested.get(f"{slug}/uniform"))
        tell_tested(self, tested)
        base: dict[str, Any] = {**self.base, key: self.turned({"test": own})}
        return self.summary(base, rows)

    def test_network(self, path: Path, batches: Iterable[Batch]) -> float:
        """What a network as it lies on the disk is worth on the test images, kept in its `metrics.json`."""
        model = self.place(self.task.adapt(load(path)))
        score, key = evaluate(model, batches, self.task).score, f"test_{self.task.metric.key}"
        told = {"test_loss": score.loss, key: self.task.metric.turn(score.accuracy)}
        told |= {} if key == "test_accuracy" else {"metric": self.task.metric.name}
        write_json(path / "metrics.json", {**read_json(path / "metrics.json", kind="Metrics"), **told})
        return score.accuracy

    def turned(self, worth: Mapping[str, float | None]) -> dict[str, float | None]:
        """The metric as people are told it, None where it is not known."""
        return {name: None if value is None else self.task.metric.turn(value) for name, value in worth.items()}

    def tell(self, row: Mapping[str, Any], worth: Mapping[str, float | None], uniform: float | None) -> None:
        test, supernet, say = worth["test"], worth["supernet"], self.task.metric.tell
        assert supernet is not None
        told = say(test) if test is not None else f"{say(supernet)} (in the supernet)"
        beside = f", uniform {say(uniform)}" if uniform is not None else ""
        share = row["macs"] / self.base["macs"]
        latency = f", {row[LATENCY]:.3g} ms" if LATENCY in row else ""
        macs = f"{say_count(row['macs'])} MACs ({share:.1%})"
        self.shown.line(f"test      {row['budget']}: {told} at {macs}{latency}{beside}")

    def summary(self, base: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
        config = self.config
        packages = ("torch", "torchvision", "timm", "datasets", "lightning-fabric")
        seconds, (version, metric) = self.folder.seconds(), summary_of(self.task.metric)
        return {
            "_type": "Summary", "_version": version, "model": config.model, "data": config.data, "task": self.task.name,
            "metric": metric, "seed": config.seed, "input": [[1, *self.data.input_shape]], "base": base,
            "budgets": rows, "seconds": {s: seconds.get(s, 0.0) for s in _STAGES if s in seconds or s != "finalists"},
            "versions": {
                "autoslim": importlib.metadata.version("autoslim"), "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in packages},
            },
            "command": self.command,
            "notes": [*self.data.notes, *self.graph.notes, *([self.start_note] if config.widen > 1 else []),
                      *self.notes],
        }  # fmt: skip

    # what the stages share -----------------------------------------------------------------------------------------

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
