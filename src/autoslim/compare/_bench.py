"""One seed of a comparison: the methods at work on what they share, each counted, and their networks trained alike."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoslim.baselines import BASELINES, Baseline, Chosen, Lab
from autoslim.baselines._base import fill_atoms
from autoslim.budget import Budget
from autoslim.checkpoint import Checkpoints
from autoslim.compare._result import KEPT
from autoslim.compare._spent import Meter, Spent
from autoslim.data import Encoded, Split
from autoslim.errors import RunFolderError
from autoslim.extract import extract_network
from autoslim.pipeline import Job, checkpoints_of, obtain_supernet, scaler_of, train_found
from autoslim.run_folder import read_json, write_json
from autoslim.saved import load_tensors_, save_tensors
from autoslim.score import evaluate
from autoslim.search import METHODS, Greedy, Method, make_method
from autoslim.search._base import excess_in
from autoslim.search._pool import FixedSearch
from autoslim.search._surrogate import Surrogate
from autoslim.train import TrainConfig
from autoslim.widths import Widths

STAGE = "compare"  # what the time of a method is noted under
_SLIMMABLE = "slimmable"


def list_methods() -> list[str]:
    """All that can be compared: "autoslim", its variants, "slimmable", the other searches, then the baselines."""
    return ["autoslim", "autoslim-plain", _SLIMMABLE, *(name for name in METHODS if name != "greedy"), *BASELINES]


def make_settings(name: str, *, seed: int) -> Method | Baseline:
    """What a name stands for: a baseline or a search method, with its default settings."""
    return BASELINES[name]() if name in BASELINES else make_search(name, seed=seed)


def make_search(name: str, *, seed: int) -> Method:
    """The search method of a name.

    "autoslim" is `Greedy`, "autoslim-plain" the same without weighing by cost. "slimmable" is `Uniform` with the
    supernet's weights: what a universally slimmable network gives without a search (Yu & Huang 2019, US-Nets).
    """
    if name.startswith("autoslim"):
        return Greedy(normalize="cost" if name == "autoslim" else "none")
    return make_method("uniform" if name == _SLIMMABLE else name, seed=seed)


def starts_of(name: str) -> tuple[str, ...]:
    """What a method's networks are trained from: "scratch", and "kept" where it leaves weights.

    Those are of the supernet, or of the channels that pruning kept.
    """
    if name == _SLIMMABLE:  # from scratch they are those of uniform
        return ("kept",)
    keeps = BASELINES[name].keeps if name in BASELINES else not isinstance(make_search(name, seed=0), FixedSearch)
    return ("scratch", "kept") if keeps else ("scratch",)


class Bench:
    """The methods of one seed at work, on what they share: data, supernet, a trained network."""

    def __init__(self, job: Job) -> None:
        self.job, self.path = job, job.folder.path
        self.space = replace(job.space, allowed={})  # a divisor says how fine searches step, and binds no method more

    def take(self, name: str) -> list[dict[str, Any]]:
        """One method: its networks for all budgets, trained and tested. What is finished is a file, read again."""
        file = self.path / "methods" / name / "rows.json"
        settings = self._settings(name)
        if not file.exists():
            with self.job.timed(f"{STAGE} {name}"):
                rows = self._rows(name)
            write_json(file, {"_type": "Rows", "_version": 1, "settings": settings, "rows": rows})
        return read_of(file, "Rows", settings)["rows"]

    def _settings(self, name: str) -> str:
        return repr(make_settings(name, seed=self.job.config.seed))

    def _rows(self, name: str) -> list[dict[str, Any]]:
        job, (chosen, spent) = self.job, self.choose(name)
        rows: list[dict[str, Any]] = []
        for each in chosen:
            text, place = each.budget.text, f"models/{name}/{each.budget.slug}"
            for start in starts_of(name):
                told = self.train(f"{place}/{start}", each.widths, each.network if start == "kept" else None)
                method = name if start == "scratch" else f"{name}{KEPT}"
                whose = {"method": method, "seed": job.config.seed, "budget": text}
                rows.append({**whose, "gap": self._excess(each.budget)(each.widths), **told, **vars(spent)})
                job.shown.line(
                    f"compare   seed {job.config.seed}, {method}, {text}: {told['accuracy']:.2%} at "
                    f"{told['macs'] / 1e6:.3f}M MACs"
                )
        return rows

    # choose

    def choose(self, name: str) -> tuple[list[Chosen], Spent]:
        """What a method finds for each budget and what that costs, what it shares with others included."""
        place = self.path / "methods" / name
        if not (place / "chosen.json").exists():
            shared, ask = self._baseline(name) if name in BASELINES else self._search(name)
            with self.job.seeded(), Meter() as meter:
                chosen = [self._filled(each) for each in ask()]
            self._write(place, chosen, shared + meter.spent, self._settings(name))
        return self._read(place, self._settings(name))

    def _search(self, name: str) -> tuple[Spent, Callable[[], list[Chosen]]]:
        """What a search method starts from cost, and the search. Who looks at no score needs no supernet."""
        job, method = self.job, make_search(name, seed=self.job.config.seed)
        keeps = "kept" in starts_of(name)
        shared = self._supernet() if keeps else Spent()
        scorer = job.fresh_scorer if keeps else Surrogate(self.space.widest)  # fresh: memory would hide what it costs

        def ask() -> list[Chosen]:
            found = method.search(self.space, job.costs, job.config.budgets, scorer, base=job.base)
            chosen = [self._filled(Chosen(each.budget, each.widths)) for each in found]
            return [replace(each, network=job.inherit(each.widths)) for each in chosen] if keeps else chosen

        return shared, ask

    def _baseline(self, name: str) -> tuple[Spent, Callable[[], list[Chosen]]]:
        """What a baseline starts from cost, and its choice."""
        baseline = BASELINES[name]()
        trained, spent = self._trained() if baseline.pretrained else (self.job.networks.build(), Spent())
        lab = self._lab(trained)
        return spent, lambda: baseline.choose(lab, self.job.config.budgets)

    def _excess(self, budget: Budget) -> Callable[[Widths], float]:
        """How far a network is above its tightest limit, as a share of it."""
        return excess_in(self.job.costs, budget, self.job.base)

    def _filled(self, each: Chosen) -> Chosen:
        """Single atoms more, up to the budget: a search in coarse steps ends below it, and all must cost the same."""
        if each.network is not None:
            return each
        return Chosen(each.budget, fill_atoms(self.space, each.widths, self._excess(each.budget)))

    def _lab(self, trained: nn.Module) -> Lab:
        job = self.job
        return Lab(
            graph=job.graph,
            space=self.space,
            costs=job.costs,
            base=job.base,
            trained=trained,
            build=job.networks.build,
            loader=job.loader(job.train_split),
            search=job.batches(job.judges, kept=True),
            calibration=[images for images, _ in job.batches(job.calibration, whole=True)],
            task=job.task,
            config=job.config.train,
            runtime=job.fabric,
            seed=job.config.seed,
            scaler=scaler_of(job.fabric),
        )

    def _supernet(self) -> Spent:
        """Trains the supernet, once, and tells what that took."""
        spent = self._metered("supernet", lambda: obtain_supernet(self.job))
        obtain_supernet(self.job)  # where it was trained before, it is only loaded
        return spent

    def _trained(self) -> tuple[nn.Module, Spent]:
        """The full-width network, trained as any other but without the search images: where pruning starts."""
        weights, job = self.path / "trained.safetensors", self.job
        model = job.place(job.networks.build())

        def train() -> None:
            if not weights.exists():
                uncounted = replace(job.config.train, cuda_graph=False)  # passes are counted where operators run
                checkpoints = self._fit("full width", model, job.train_split, uncounted)
                save_tensors(weights, model)
                checkpoints.remove()

        spent = self._metered("trained", train)
        train()  # weights that were lost since are made again; what they cost is counted
        load_tensors_(weights, model)
        return model, spent

    def _metered(self, name: str, train: Callable[[], object]) -> Spent:
        """What a training takes that methods share, over all sessions; it is known once the training has ended."""
        told = self.path / f"{name}.json"
        if not told.exists():
            with Meter(self.path / f"{name}-spent.jsonl") as meter:
                self.job.on_step = meter.step
                try:
                    train()
                finally:
                    self.job.on_step = lambda loss, done: None
            write_json(told, meter.spent.to_json())
        return Spent.from_json(read_json(told, kind="Spent"))

    def _write(self, place: Path, chosen: Sequence[Chosen], spent: Spent, settings: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        for each in chosen:
            if each.network is not None:
                save_tensors(place / f"{each.budget.slug}.safetensors", each.network)
        networks = [{"widths": dict(each.widths), "kept": each.network is not None} for each in chosen]
        told = {"settings": settings, "networks": networks, **vars(spent)}
        write_json(place / "chosen.json", {"_type": "Chosen", "_version": 1, **told})

    def _read(self, place: Path, settings: str) -> tuple[list[Chosen], Spent]:
        data = read_of(place / "chosen.json", "Chosen", settings)
        chosen: list[Chosen] = []
        for budget, each in zip(self.job.config.budgets, data["networks"], strict=True):
            widths, network = Widths(each["widths"]), None
            if each["kept"]:
                network = extract_network(self.job.networks.build(), self.job.graph, widths)
                load_tensors_(place / f"{budget.slug}.safetensors", network)
            chosen.append(Chosen(budget, widths, network))
        return chosen, Spent.from_json(data)

    # train and test

    def train(self, place: str, widths: Widths, network: nn.Module | None) -> dict[str, Any]:
        """A network trained with the run's recipe on all of train, and its test accuracy: {accuracy, macs, ...}.

        Raises:
            RunFolderError: A network of other widths was trained there.
        """
        told = self.path / place / "trained.json"
        if not told.exists():
            job = self.job
            model = job.place(job.start(widths) if network is None else network)
            checkpoints = self._fit(place, model, job.data.train, job.config.train)
            accuracy = evaluate(model, job.batches(job.data.test), job.task).score.accuracy
            told.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(told.with_name("model.safetensors"), model)
            write_json(told, {"_type": "Trained", "_version": 1, "accuracy": accuracy, "widths": dict(widths)})
            checkpoints.remove()
        data = read_json(told, kind="Trained")
        if Widths(data["widths"]) != widths:
            raise RunFolderError(
                f"{told.parent} holds a trained network of the widths {data['widths']}; expected {dict(widths)}, as "
                f"the method chose. Delete {told.parent}, and the network is trained anew."
            )
        return {"accuracy": data["accuracy"], "widths": data["widths"], **self.job.price(widths)}

    def _fit(self, name: str, model: nn.Module, split: Split | Encoded, config: TrainConfig) -> Checkpoints:
        """Trains in place, from where it was stopped; the checkpoints go once the result is on the disk."""
        job, checkpoints = self.job, checkpoints_of(self.job, name)
        train_found(job, model, job.loader(split), config, name=name, checkpoints=checkpoints)
        return checkpoints


def read_of(file: Path, kind: str, settings: str) -> dict[str, Any]:
    """A file that tells which settings of a method it is of."""
    told = read_json(file, kind=kind)
    if told.get("settings") != settings:
        raise RunFolderError(
            f"{file} is of {told.get('settings')}; expected {settings}, as this version has it. Compare into a new "
            "--out, or go on with the version that began."
        )
    return told
