"""The main job at its smallest, on real digits: what it leaves keeps the contract that later tools rely on."""

import hashlib
import html
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import autoslim
from autoslim import pipeline
from autoslim.budget import Budget
from autoslim.cli import main
from autoslim.costs import COSTS
from autoslim.data import load_data
from autoslim.errors import (
    BudgetError,
    ConfigError,
    ModelError,
    RunFolderError,
    TrainingError,
    UnknownNameError,
    WidthsError,
)
from autoslim.pipeline import RunConfig, parse_shape, plan_run, resume, run, scaler_of
from autoslim.progress import Shown
from autoslim.recipes import RECIPES
from autoslim.testing.networks import counted_macs
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)
CONFIG = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("macs<=50%", "params<=40%,macs<=60%"),
    search_images=60,
    train=TrainConfig(epochs_supernet=2, epochs_retrain=2, batch_size=64, augment="crop"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(
        replace(CONFIG, out=str(tmp_path_factory.mktemp("runs") / "done")), shown=QUIET, command="autoslim run x"
    )


@pytest.fixture(scope="module")
def summary(done):
    return json.loads((done / "summary.json").read_text())


def test_the_summary_keeps_its_contract(summary):
    assert (summary["_type"], summary["_version"]) == ("Summary", 1)
    assert (summary["model"], summary["data"], summary["task"]) == (CONFIG.model, "digits", "classification")
    assert (summary["metric"], summary["seed"], summary["input"]) == ("accuracy", 0, [[1, 1, 8, 8]])
    assert set(summary["base"]) == {*COSTS, "accuracy"}
    assert set(summary["seconds"]) == {"trace", "train", "search", "retrain"}
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [row["budget"] for row in summary["budgets"]] == list(CONFIG.budget)
    for row in summary["budgets"]:
        assert set(row) == {"budget", "folder", "widths", *COSTS, "accuracy", "uniform"}
        assert set(row["accuracy"]) == {"search", "supernet", "test"}
        assert set(row["uniform"]) == {"ratio", *COSTS, "accuracy"}
        assert all(0 <= value <= 1 for value in (*row["accuracy"].values(), *row["uniform"]["accuracy"].values()))


def test_budgets_hold_and_costs_are_those_of_the_loaded_modules(done, summary):
    x = (torch.zeros(1, 1, 8, 8),)
    base = {name: summary["base"][name] for name in ("macs", "params", "memory")}
    for row in summary["budgets"]:
        assert Budget.parse(row["budget"]).holds(row, base)
        for folder, told in ((done / row["folder"], row), (done / row["folder"] / "uniform", row["uniform"])):
            model = autoslim.load(folder)
            assert counted_macs(model, x) == told["macs"]
            assert sum(p.numel() for p in model.parameters()) == told["params"]
        binding = "macs" if row["budget"] == "macs<=50%" else "params"
        assert abs(row["uniform"][binding] / row[binding] - 1) < 0.03  # eight channels are coarse


def test_test_accuracy_is_that_of_the_loaded_module_on_prepared_images(done, summary):
    row = summary["budgets"][0]
    config = json.loads((done / row["folder"] / "config.json").read_text())
    data = load_data("digits", seed=0)
    mean, std = (torch.tensor(config["normalisation"][k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        logits = autoslim.load(done / row["folder"])((data.test.images / 255 - mean) / std)
    hits = (logits.argmax(1) == data.test.labels).double().mean()
    assert float(hits) == row["accuracy"]["test"]
    assert config["classes"] == [str(digit) for digit in range(10)]
    assert config["input"] == [1, 1, 8, 8]


def test_each_model_folder_is_complete(done, summary):
    folders = [done / "models" / "base"]
    for row in summary["budgets"]:
        folders += [done / row["folder"], done / row["folder"] / "uniform"]
        assert json.loads((done / row["folder"] / "widths.json").read_text())["widths"] == row["widths"]
    for folder in folders:
        assert {p.name for p in folder.iterdir() if p.is_file()} == {
            "config.json", "widths.json", "model.safetensors", "metrics.json",
        }  # fmt: skip
    assert not [p for p in done.rglob("*.part")]


def test_the_search_is_on_the_disk_without_a_clock(done, summary):
    steps = [json.loads(line) for line in (done / "search.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert summary["budgets"][0]["widths"] in [step["widths"] for step in steps]
    assert not any("second" in key or "time" in key for step in steps for key in step)
    assert len([line for line in (done / "times.jsonl").read_text().splitlines() if "search_step" in line]) == len(
        steps
    )


@pytest.mark.parametrize(
    "lost", [["summary.json"], ["search.jsonl", "summary.json"], ["models/macs-50", "summary.json"]]
)
def test_a_run_that_was_stopped_resumes_to_the_same_result(done, summary, tmp_path, lost):
    again = tmp_path / "again"
    shutil.copytree(done, again)
    search = (done / "search.jsonl").read_text()
    for name in lost:
        path = again / name
        if name == "search.jsonl":
            path.write_text(search[: len(search) // 2])  # a torn line, too
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    resume(again, shown=QUIET)
    assert (again / "search.jsonl").read_text() == search
    new = json.loads((again / "summary.json").read_text())
    assert {**new, "seconds": None} == {**summary, "seconds": None}
    assert new["command"] == "autoslim run x"


def test_a_finished_run_is_not_tested_again(done, tmp_path, monkeypatch):
    again = tmp_path / "again"
    shutil.copytree(done, again)
    (again / "report.html").unlink()
    monkeypatch.setattr("autoslim.pipeline._reopen.prepare", None)
    assert resume(again, shown=QUIET) == again
    assert (again / "report.html").exists()
    assert (again / "summary.json").read_text() == (done / "summary.json").read_text()


FACTORY = """
import torch
from torch import nn

class Net(nn.Sequential):
    def forward(self, x):
        if self.training and {eval_only}:
            raise RuntimeError("no training here")
        return super().forward(x)

def factory():
    return Net(nn.Conv2d(1, {width}, 3), nn.BatchNorm2d({width}), nn.ReLU(), nn.Conv2d({width}, 8, 3),
               nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, {classes}))
"""


def write_factory(tmp_path, *, width=16, classes=10, eval_only=False) -> str:
    (tmp_path / "net.py").write_text(FACTORY.format(width=width, classes=classes, eval_only=eval_only))
    return f"{tmp_path}/net.py:factory"


def test_a_resumed_run_must_have_the_same_network(tmp_path):
    config = replace(
        CONFIG, model=write_factory(tmp_path), budget=("macs<=60%",), baselines="none", out=str(tmp_path / "o")
    )
    folder = run(config, shown=QUIET)
    (folder / "summary.json").unlink()
    write_factory(tmp_path, width=24)
    told = r"The network is not the one .* was started with: the sha256 of .*net\.py is '\w{64}' and was '\w{64}'"
    with pytest.raises(RunFolderError, match=told):
        resume(folder, shown=QUIET)
    file = tmp_path / "net.py"
    write_factory(tmp_path)
    file.write_text(file.read_text() + "# the same network\n")
    saved = json.loads((folder / "run.json").read_text())
    advice = r"Put the file back.* write its sha256 under `network` in .*run\.json and.* a new run with another --out"
    with pytest.raises(RunFolderError, match=advice):
        resume(folder, shown=QUIET)
    saved["network"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(saved))
    network = folder / "models" / "macs-60" / "config.json"
    config = json.loads(network.read_text())
    config["model"]["sha256"] = saved["network"]["sha256"]
    network.write_text(json.dumps(config))
    resume(folder, shown=QUIET)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"eval_only": True},
            r"can't be trained on \(1, 8, 8\): train mode was not traced: RuntimeError: no training here",
        ),
        ({"classes": 2}, r"its output does not fit 10 classes: .* Expected logits \[N, 10\]"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, options, told):
    config = replace(CONFIG, model=write_factory(tmp_path, **options), out=str(tmp_path / "o"))
    with pytest.raises(ModelError, match=told):
        run(config, shown=QUIET)
    assert not (tmp_path / "o").exists()


def test_outputs_beyond_the_classes_are_told_once_in_the_plan_and_in_the_report(tmp_path, capsys):
    model = write_factory(tmp_path, classes=1000)
    config = replace(CONFIG, model=model, budget=("macs<=60%",), baselines="none", out=str(tmp_path / "o"))
    told = (
        f"`{model}`: it has outputs for 1000 classes, and there are 10: the rest are never right, and cost MACs in the "
        "last layer. Give the number as a builder argument, or let the factory take num_classes."
    )
    plan_run(config)
    assert [line for line in capsys.readouterr().out.splitlines() if "1000" in line] == [f"trace     {told}"]
    folder = run(config, shown=QUIET)
    assert json.loads((folder / "summary.json").read_text())["notes"].count(told) == 1
    assert html.escape(told) in (folder / "report.html").read_text()


def test_a_channels_last_network_resumes_to_the_same_search(tmp_path, monkeypatch):
    monkeypatch.setattr("autoslim.pipeline._job._CALIBRATION", 256)
    config = replace(CONFIG, model="zoo:mobilenet_small?width_mult=0.5", budget=("macs<=92%",), baselines="none")
    config = replace(config, search_images=20, retrain="none", train=replace(CONFIG.train, epochs_supernet=1))
    folder = run(replace(config, out=str(tmp_path / "o")), shown=QUIET)
    search = (folder / "search.jsonl").read_text()
    assert search.count("\n") > 1
    (folder / "search.jsonl").write_text(search.splitlines(keepends=True)[0])
    (folder / "summary.json").unlink()
    resume(folder, shown=QUIET)
    assert (folder / "search.jsonl").read_text() == search


def test_an_output_folder_with_a_run_is_refused_before_any_work(done):
    with pytest.raises(RunFolderError, match="holds another run"):
        run(replace(CONFIG, out=str(done), data="hf:not-even-looked-at"), shown=QUIET)


def test_a_plan_needs_no_folder_and_tells_what_is_held_already(done):
    plan = plan_run(replace(CONFIG, out=str(done), budget=("macs<=120%", "macs<=50%")), shown=QUIET)
    held, met = (line for line in plan.lines() if line.startswith("macs<="))
    assert held.startswith("macs<=120%: nothing to slim, the whole network holds it, macs at most ")
    assert met.startswith("macs<=50%: can be met, macs at most ")


def test_budgets_that_the_whole_network_holds_are_refused_before_the_folder_is_made(tmp_path, capsys):
    config = replace(CONFIG, out=str(tmp_path / "x"), budget=("macs<=120%", "params<=9M"))
    with pytest.raises(BudgetError) as error:
        run(config, shown=QUIET)
    text = str(error.value)
    assert text.startswith("Nothing to slim: the whole network (macs ")
    assert "holds 'macs<=120%' and 'params<=9M' as it is" in text
    assert text.endswith('Write for instance "macs<=50%".')
    assert not (tmp_path / "x").exists()
    options = [f"--{name}={value}" for name, value in (("model", CONFIG.model), ("out", tmp_path / "x"))]
    assert main(["run", "digits", *options, "--dry-run", "--budget", "macs<=120%"]) == 2
    told = capsys.readouterr()
    assert "nothing to slim" in " ".join(told.out.split())
    assert "Nothing to slim: the whole network" in told.err


def test_where_nothing_can_be_narrowed_no_budget_is_proposed(tmp_path):
    config = replace(CONFIG, out=str(tmp_path / "x"), keep=("*",))
    for budget in ("macs<=50%", "macs<=100%"):
        refused = plan_run(replace(config, budget=(budget,)), shown=QUIET).refused
        assert refused.endswith("No group can be narrowed; `autoslim trace MODEL` says why.")


def test_a_network_is_not_trained_twice(tmp_path, capsys):
    train = replace(CONFIG.train, epochs_supernet=1, epochs_retrain=1)
    config = replace(CONFIG, out=str(tmp_path / "o"), budget=("macs<=120%", "macs<=50%"), train=train)
    models = run(replace(config, method="uniform", search=None), shown=Shown()) / "models"
    assert capsys.readouterr().out.count("the widths of models/base, trained already") == 2
    whole = (models / "base" / "model.safetensors").read_bytes()
    for folder in ("macs-120", "macs-120/uniform"):
        assert (models / folder / "model.safetensors").read_bytes() == whole
        assert json.loads((models / folder / "metrics.json").read_text())["losses"]


def test_what_was_learnt_is_no_guess(summary):
    assert not [note for note in summary["notes"] if "guessing" in note]


def test_a_training_that_learns_nothing_is_told(tmp_path, capsys):
    dead = replace(CONFIG.train, epochs_supernet=2, epochs_retrain=2, lr=1e-9)
    done = run(replace(CONFIG, out=str(tmp_path / "o"), baselines="none", train=dead), shown=Shown())
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if "try a lower --lr, or more epochs" in line]
    summary = json.loads((done / "summary.json").read_text())
    found = {tuple(row["widths"].items()) for row in summary["budgets"]}  # two budgets may get one network
    assert [line.split()[0] for line in told] == ["supernet", *["retrain"] * len(found)]
    assert "(no less than the " in told[0]
    widest, tested = (line for line in out.splitlines() if "is what guessing among 10 classes gives: give more" in line)
    assert " of the widest network in the supernet on 60 search images is " in widest
    assert " of models/macs-50, " in tested
    assert " on 359 test images is " in tested
    assert [note for note in summary["notes"] if "guessing" in note] == [
        line.split(maxsplit=1)[1] for line in (widest, tested)
    ]


def test_a_budget_that_cannot_be_met_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(BudgetError) as error:
        run(replace(CONFIG, out=str(tmp_path / "x"), budget=("macs<=1%",)), shown=QUIET)
    assert "macs<=1%" in str(error.value)
    assert not (tmp_path / "x").exists()
    with pytest.raises(BudgetError, match="budget is empty"):
        run(replace(CONFIG, out=str(tmp_path / "x"), budget=()), shown=QUIET)


@pytest.mark.parametrize("how", ["inherit", "none"])
def test_other_ways_to_get_weights(tmp_path, how):
    config = replace(CONFIG, out=str(tmp_path / how), budget=("macs<=60%",), retrain=how, baselines="none")
    config = replace(config, train=replace(CONFIG.train, epochs_supernet=1, epochs_retrain=1))
    folder = run(config, shown=QUIET)
    row = json.loads((folder / "summary.json").read_text())["budgets"][0]
    assert "uniform" not in row
    assert (row["accuracy"]["test"] is None) == (how == "none")
    assert json.loads((folder / "summary.json").read_text())["base"]["accuracy"]["test"] is None
    if how == "none":  # the saved network is the sub-network of the supernet, statistics and all
        data = load_data("digits", seed=0)
        config = json.loads((folder / row["folder"] / "config.json").read_text())["normalisation"]
        mean, std = (torch.tensor(config[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
        with torch.no_grad():
            logits = autoslim.load(folder / row["folder"])((data.test.images / 255 - mean) / std)
        hits = (logits.argmax(1) == data.test.labels).double().mean()
        assert float(hits) == pytest.approx(row["accuracy"]["supernet"], abs=0.01)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = replace(CONFIG, out=str(tmp_path / "nan"), train=replace(CONFIG.train, lr=1e9, warmup=0.0))
    with pytest.raises(TrainingError, match="learning rate"):
        run(config, shown=QUIET)
    assert not (tmp_path / "nan" / "supernet.safetensors").exists()


def test_the_test_set_is_not_read_before_everything_else_has_ended(tmp_path, monkeypatch):
    order: list[str] = []
    kept = {}
    prepare, sum_up = pipeline.prepare, pipeline.sum_up

    def without_test(job):
        prepare(job)
        kept["test"] = job.data.test
        object.__setattr__(job.data, "test", None)  # whoever looks at it earlier fails

    def with_test(job, *args):
        order.append("test begins")
        object.__setattr__(job.data, "test", kept["test"])
        return sum_up(job, *args)

    monkeypatch.setattr(pipeline, "prepare", without_test)
    monkeypatch.setattr(pipeline, "sum_up", with_test)
    train = replace(CONFIG.train, epochs_supernet=1, epochs_retrain=1)
    run(replace(CONFIG, out=str(tmp_path / "x"), budget=("macs<=60%",), baselines="none", train=train), shown=QUIET)
    assert order == ["test begins"]


@pytest.fixture(scope="module")
def widened(tmp_path_factory):
    """A run from 1.5x, with one stage kept and one limited."""
    config = replace(
        CONFIG, out=str(tmp_path_factory.mktemp("runs") / "wide"), budget=("macs<=90%",), widen=1.5, keep=("stage1",),
        limit=("stage3*:min=16,divisor=8",), train=replace(CONFIG.train, epochs_supernet=1, epochs_retrain=1),
    )  # fmt: skip
    return run(config, shown=QUIET)


def test_a_run_from_a_wider_network_is_held_to_the_one_given(widened, done, summary):
    wide = json.loads((widened / "summary.json").read_text())
    costs = ("macs", "params", "memory")
    assert {name: wide["base"][name] for name in costs} == {name: summary["base"][name] for name in costs}
    own, base = (autoslim.load(folder / "models" / "base").state_dict() for folder in (widened, done))
    assert {name: tensor.shape for name, tensor in own.items()} == {name: tensor.shape for name, tensor in base.items()}
    graph = autoslim.ChannelGraph.from_json(json.loads((widened / "graph.json").read_text()))
    given = autoslim.ChannelGraph.from_json(json.loads((done / "graph.json").read_text()))
    kept = given.freeze("stage1")
    assert any(group.frozen == "kept by the user" for group in graph.groups)
    for group, before in zip(graph.groups, kept.groups, strict=True):
        assert group.name == before.name
        assert (group.size == before.size) == (before.frozen is not None)
    limited = [group for group in graph.groups if group.name.startswith("stage3") and group.frozen is None]
    assert limited
    assert all(width >= 16 and width % 8 == 0 for group in limited for width in group.candidates)
    assert wide["notes"][-1].startswith("The search starts from your network 1.5x as wide: 3")
    row = wide["budgets"][0]
    assert row["macs"] <= 0.9 * wide["base"]["macs"]
    x = (torch.zeros(1, 1, 8, 8),)
    for folder, told in ((row["folder"], row), (f"{row['folder']}/uniform", row["uniform"])):
        model = autoslim.load(widened / folder)
        assert type(model).__name__ == "ResNetDigits"
        assert counted_macs(model, x) == told["macs"]
        assert sum(p.numel() for p in model.parameters()) == told["params"]
    assert abs(row["uniform"]["macs"] / row["macs"] - 1) < 0.05
    steps = [json.loads(line) for line in (widened / "search.jsonl").read_text().splitlines()]
    assert steps[0]["costs"]["macs"] > wide["base"]["macs"]  # the search started above the network as given


def test_a_run_from_a_wider_network_resumes(widened, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(widened, again)
    search = (widened / "search.jsonl").read_text()
    (again / "search.jsonl").write_text(search.splitlines(keepends=True)[0])
    (again / "summary.json").unlink()
    shutil.rmtree(again / "models")
    resume(again, shown=QUIET)
    assert (again / "search.jsonl").read_text() == search
    old, new = (json.loads((folder / "summary.json").read_text()) for folder in (widened, again))
    assert {**new, "seconds": None} == {**old, "seconds": None}


@pytest.mark.parametrize("text", ["layer4", "layer4:", ":min=3", "a:min=0", "a:max=3", "a:min=2,min=3", "a:min=x", ""])
def test_limits_that_can_not_be_read_are_told(text):
    with pytest.raises(ConfigError, match=r"expected a path or glob, a colon.*Write for instance --limit"):
        replace(CONFIG, limit=(text,))


def test_settings_of_the_graph_are_refused_before_the_folder_is_made(tmp_path):
    for changes, error, told in (
        ({"keep": ("layer9",)}, UnknownNameError, "Unknown layer or channel group 'layer9'"),
        ({"limit": ("stem:min=99",)}, WidthsError, "leaves `stem` no choice"),
    ):
        with pytest.raises(error, match=told):
            run(replace(CONFIG, out=str(tmp_path / "x"), **changes), shown=QUIET)
        assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match=r"RunConfig\.widen is 0\.5; expected 1"):
        replace(CONFIG, widen=0.5)
    assert replace(CONFIG, limit=("a.*:divisor=16",)).limits == [("a.*", {"divisor": 16})]


def test_a_users_own_factory_and_folder_of_images(tmp_path):
    from PIL import Image

    images = load_data("digits", seed=0).train
    for index in range(160):
        folder = tmp_path / "data" / ("even" if images.labels[index] % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[index, 0].numpy()).resize((12, 12)).save(folder / f"{index}.png")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def factory(num_classes, in_channels, width=16):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),\n"
        "        nn.Conv2d(width, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
    )
    config = RunConfig(
        model=f"{tmp_path}/mine.py:factory?width=24", data=f"folder:{tmp_path}/data", out=str(tmp_path / "out"),
        baselines="none", train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=32),
    )  # fmt: skip
    folder = run(config, shown=QUIET)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["input"] == [[1, 1, 12, 12]]
    model = autoslim.load(folder / summary["budgets"][0]["folder"])
    assert isinstance(model, nn.Sequential)
    assert model(torch.zeros(1, 1, 12, 12)).shape == (1, 2)


def test_shapes_are_read():
    assert parse_shape("3,64,32") == parse_shape("1,3,64,32") == (1, 3, 64, 32)
    for text in ("3,64", "a,b,c", "3,0,4", ""):
        with pytest.raises(ValueError, match=r"expected channels,height,width\. Write for instance --input 3,224,224"):
            parse_shape(text)


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_round_trip(name):
    config = replace(RECIPES[name](), keep=("a", "b.*"), limit=("c:min=8",), widen=1.5)
    data = json.loads(json.dumps(autoslim.pipeline.asdict(config)))
    assert RunConfig.from_json(data) == config


def test_a_configuration_of_another_version_is_told():
    data = json.loads(json.dumps(autoslim.pipeline.asdict(CONFIG)))
    with pytest.raises(RunFolderError, match=r"does not fit: .*'colour'.*Resume with the version of autoslim"):
        RunConfig.from_json({**data, "colour": "red"})
    del data["train"]
    with pytest.raises(RunFolderError, match="does not fit: 'train'"):
        RunConfig.from_json(data)


def test_a_rewritten_network_is_trained_saved_and_loaded(tmp_path):
    """A file's network whose view holds its own channel number: it slims only rewritten."""
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "class Own(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__()\n"
        "        self.stem = nn.Conv2d(in_channels, 16, 3, stride=2)\n"
        "        self.norm = nn.BatchNorm2d(16)\n"
        "        self.head = nn.Linear(16 * 9, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.norm(self.stem(x)).relu().reshape(-1, 16 * 9))\n"
    )
    options = {"model": f"{file}:Own", "rewrite": True, "budget": ("params<=70%",), "baselines": "none"}
    folder = run(replace(CONFIG, out=str(tmp_path / "run"), **options), shown=QUIET)
    config_json = json.loads((folder / "models" / "params-70" / "config.json").read_text())
    assert config_json["rewritten"] is True
    small = autoslim.load(folder / "models" / "params-70")
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert small.get_parameter("stem.weight").shape[0] < 16


def test_each_training_begins_with_a_new_scale():
    scaler = torch.amp.GradScaler("cpu")
    fabric = SimpleNamespace(
        strategy=SimpleNamespace(precision=SimpleNamespace(scaler=scaler)), device=torch.device("cpu")
    )
    fresh = scaler.state_dict()
    scaler.load_state_dict({**fresh, "scale": 2.0, "_growth_tracker": 7})
    assert scaler_of(fabric) is scaler
    assert scaler.state_dict() == fresh
