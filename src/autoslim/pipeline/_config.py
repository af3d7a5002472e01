"""What a whole run is asked to do."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autoslim._registry import check_choices
from autoslim.budget import Budget
from autoslim.costs import check_metric
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.pipeline._rivals import check_finalists
from autoslim.pipeline._track import TrackerName
from autoslim.runtimes import check_setting, find_runtime
from autoslim.search import METHODS, make_method
from autoslim.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run."""

    model: str
    """torchvision:NAME, timm:NAME, zoo:NAME or path/to/file.py:factory; builder arguments as ?key=value&key=value."""
    data: str
    """digits, hf:NAME, hf-stream:NAME (read in parts), folder:PATH, webdataset:PATTERN or path/to/file.py:factory;
    drawn for other tasks: shapes-masks, shapes-boxes."""
    task: str = "classification"
    """What the network is for: classification, segmentation, detection or path/to/file.py:factory (a task of your
    own)."""
    budget: tuple[str, ...] = ("macs<=50%",)
    """What the slim network may cost: "latency<=5ms", "macs<=300M", "params<=2M", "memory<=2M", "peak_memory<=8M", each
    also as a share of the network as given, "macs<=50%"; "latency<=5ms,params<=2M" is both. Several give several
    networks."""
    out: str = "runs/autoslim"
    """Folder for the results; must be new or empty."""
    seed: int = 0
    """Of every random choice."""
    input: str = ""
    """Input shape, e.g. 3,64,64; follows the data unless given."""
    search_images: int = 10_000
    """Images that decide each search step, of the 10% that are held out of train: 10,000 at most, or so many."""
    workers: int = -1
    """Processes that decode and augment images that are not in memory; 0: none, -1: as there are cores, 8 at most."""
    baselines: str = "base,uniform"
    """What is trained beside what was found: base (your own network), uniform (at equal cost), base,uniform or none."""
    retrain: Literal["scratch", "inherit", "none"] = "scratch"
    """Where the found networks' weights come from: trained anew, trained on from the supernet's, or the supernet's."""
    widen: float = 1.0
    """Search from a network so many times as wide (the paper: 1.5); budgets stay shares of the network as given."""
    keep: tuple[str, ...] = ()
    """Layers whose shape must stay: a module's path or a glob, e.g. features.0 or "layer4.*"."""
    limit: tuple[str, ...] = ()
    """Widths that layers may take: a path or glob, then the narrowest and a multiple: "layer4.*:min=64,divisor=16"."""
    from_weights: str = ""
    """Start the supernet from this file's trained weights, the channels with the largest filters first: safetensors, or
    a state dict that torch.save wrote."""
    rewrite: bool = False
    """Search the network rewritten over its layers, where numbers in its own code keep widths from changing."""
    finalists: int = 0
    """Networks per budget, uniform among them, of which a short training chooses the one to retrain; 0: no choice."""
    finalist_epochs: int = 0
    """Epochs of the finalists' last rung, each earlier one half of the next; 0: half of those of the retraining."""
    runtime: str = "torch"
    """Where latency is measured: torch, torch.compile, onnxruntime or openvino on this machine's processor, or
    "command:./measure.sh {onnx}", a program of yours that measures elsewhere."""
    runtime_threads: int = 1
    """Threads that the runtime may use."""
    runtime_precision: str = "fp32"
    """Precision that the runtime calculates in: fp32; with torch also bf16 and fp16, with openvino bf16."""
    runtime_batch: int = 1
    """Images at a time."""
    tracker: TrackerName = "tensorboard"
    """Where loss, learning rate and images per second go: files in OUT/metrics (tensorboard, csv), or a service."""
    method: str = "greedy"
    """Search method; the search options below are its own."""
    search: Any = None
    """How the widths are searched."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How supernet and networks are trained."""

    def __post_init__(self) -> None:
        check_choices(self, RunConfig)
        if self.search is None:
            object.__setattr__(self, "search", make_method(self.method, seed=self.seed))
        if not isinstance(self.search, METHODS[self.method]):
            raise ConfigError(
                f"RunConfig.method is {self.method!r}, but RunConfig.search is {self.search!r}; expected settings of "
                "that method. Leave `search` out, or pass None, for its defaults."
            )
        for text in self.budget:
            for limit in Budget.parse(text).limits:
                check_metric(limit.metric)  # an unknown metric is told before anything else happens
        slugs: dict[str, str] = {}
        for budget in self.budgets:
            if budget.slug in slugs:
                raise BudgetError(
                    f"The budgets {slugs[budget.slug]!r} and {budget.text!r} would share the folder {budget.slug!r}; "
                    "expected different ones. Drop one, or write it with another unit."
                )
            slugs[budget.slug] = budget.text
        check_setting(find_runtime(self.runtime), threads=self.runtime_threads, precision=self.runtime_precision)
        if self.runtime_batch < 1:
            raise ConfigError(f"RunConfig.runtime_batch is {self.runtime_batch}; expected at least 1.")
        self.limits  # noqa: B018 - refuses what can't be read
        if not 1 <= self.widen < math.inf:
            raise ConfigError(
                f"RunConfig.widen is {self.widen}; expected 1 (the network as given) or more. Write for instance "
                "--widen 1.5."
            )
        if self.rewrite and self.widen > 1:
            raise ConfigError(
                "RunConfig.rewrite and RunConfig.widen were both given; expected one: a rewritten network is not "
                "widened. Drop one of them."
            )
        if self.from_weights and (self.rewrite or self.widen > 1):
            raise ConfigError(
                "RunConfig.from_weights was given together with rewrite or widen; expected the network as it was "
                "trained: a wider one is drawn anew, a rewritten one names its tensors otherwise. Drop one of them."
            )
        check_finalists(self.finalists, self.finalist_epochs, search=self.search, retrain=self.retrain)
        if self.baselines != "none" and not {*self.baselines.split(",")} <= {"base", "uniform"}:
            raise ConfigError(
                f"RunConfig.baselines is {self.baselines!r}; expected base, uniform, both with a comma between them, "
                "or none. Write for instance --baselines base,uniform."
            )
        if self.search_images < 1:
            raise ConfigError(f"RunConfig.search_images is {self.search_images}; expected at least 1.")
        if self.workers < -1:
            raise ConfigError(f"RunConfig.workers is {self.workers}; expected 0 or more, or -1 for the default.")

    @property
    def budgets(self) -> list[Budget]:
        return [Budget.parse(text) for text in self.budget]

    @property
    def num_workers(self) -> int:
        """Worker processes of each process of the run; by default those of one machine share its cores."""
        if self.workers >= 0:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1), 8)

    @property
    def latency_limited(self) -> bool:
        """Whether a budget limits latency, so that it must be measured."""
        return any(budget.measured for budget in self.budgets)

    @property
    def limits(self) -> list[tuple[str, dict[str, int]]]:
        """Each limit as the arguments of `ChannelGraph.limit`."""
        return [parse_limit(text) for text in self.limit]

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        return parse_shape(self.input)[-3:] if self.input else None  # pyright: ignore[reportReturnType]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RunConfig":
        """The inverse of `dataclasses.asdict`; fields this version does not know raise RunFolderError."""
        try:
            method = METHODS[data.get("method", "greedy")]
            parts: dict[str, Any] = {"search": method(**data["search"]), "train": TrainConfig(**data["train"])}
            parts |= {name: tuple(data[name]) for name in ("budget", "keep", "limit")}
            return cls(**{**data, **parts})
        except (TypeError, KeyError) as error:
            raise RunFolderError(
                f"The configuration in `run.json` does not fit: {error}. Expected the fields of this version's "
                "RunConfig. Resume with the version of autoslim that started the run."
            ) from error


def parse_limit(text: str) -> tuple[str, dict[str, int]]:
    """Reads "PATTERN:min=64,divisor=16" (either of the two, or both); anything else raises ConfigError.

    >>> parse_limit("layer4.*:min=64,divisor=16")
    ('layer4.*', {'min': 64, 'divisor': 16})
    """
    pattern, _, rest = text.rpartition(":")
    items = [re.fullmatch(r"\s*(min|divisor)=([1-9]\d*)\s*", item) for item in rest.split(",")]
    found = {item[1]: int(item[2]) for item in items if item}
    if not pattern or len(found) < len(items):
        raise ConfigError(
            f"Limit {text!r}: expected a path or glob, a colon, then min=N, divisor=N or both, N a number from 1. "
            'Write for instance --limit "layer4.*:min=64,divisor=16".'
        )
    return pattern, found


def parse_shape(text: str) -> tuple[int, ...]:
    """Reads "3,64,64" or "1,3,64,64"; anything else raises ConfigError."""
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ConfigError(
            f"Input shape {text!r}: expected channels,height,width. Write for instance --input 3,224,224."
        )
    return shape if len(shape) == 4 else (1, *shape)
