"""The benchmarks run on one small network each, count failures as failures, and keep their held-out list."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = "torchvision:squeezenet1_1"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module; not by its bare name, which the standard library has as well."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *options: str) -> str:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


# The lists ------------------------------------------------------------------------------------------------------------


def test_the_held_out_networks_are_sixty_known_ones_not_used_in_development(monkeypatch):
    networks = load("networks", monkeypatch)
    held_out, development = networks.read_networks("held-out"), networks.read_networks("development")
    assert len(held_out) == len(set(held_out)) == 60
    assert len(development) == len(set(development)) == 129
    assert not set(held_out) & set(development)
    modules = [networks.timm.models.model_entrypoint(name.removeprefix("timm:")).__module__ for name in held_out]
    assert max(Counter(modules).values()) <= networks.MOST_PER_MODULE
    assert not {module.rpartition(".")[2] for module in modules} & set(networks.LEFT_OUT)
    assert set(networks.list_modules()) >= set(networks.LEFT_OUT), "each module left out is one that timm has"


def test_the_written_lists_are_those_of_the_script(monkeypatch):
    networks = load("networks", monkeypatch)
    assert networks.list_development() == networks.read_networks("development")
    assert networks.list_torchvision() == networks.read_networks("torchvision")


@pytest.mark.slow
def test_the_held_out_list_can_be_drawn_again():
    lines = run_script("networks").splitlines()
    assert [line.split()[0] for line in lines] == ["development", "torchvision", "held-out"]
    assert all("as in the file" in line for line in lines)


# trace.py -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_trace_benchmark_measures_a_network_and_leaves_one_file(tmp_path):
    out = tmp_path / "trace.json"
    options = ("--set", "development", "--only", SMALL, "--out", str(out))
    printed = run_script("trace", *options, "--json")
    assert json.loads(printed) == json.loads(out.read_text())
    assert list(tmp_path.iterdir()) == [out]
    result = json.loads(printed)
    (network,) = result["networks"]
    assert network["ours"]["full_exact"] is True
    assert list(network["ours"]["draws"]) == ["narrowest", "random 0", "random 1", "half"]
    for draw in network["ours"]["draws"].values():
        assert all(draw[key] for key in ("runs", "macs", "params", "in_place", "masked", "masking_shows", "trains"))
    times = network["times"]
    assert times["total"] > times["trace"] > 0
    assert times["probe"] > 0
    assert result["summary"]["exact: run, train, MACs and parameters"] == 1
    assert result["summary"]["failures"] == {}
    if importlib.util.find_spec("torch_pruning") is None:
        pytest.skip("the rest is about Torch-Pruning, which is not installed")
    assert network["torch_pruning"]["runs"] is True
    assert 0.2 < network["torch_pruning"]["half_share"] < 0.5
    assert times["torch_pruning"] > 0


def test_a_network_that_takes_too_long_is_killed_and_counts_as_a_failure():
    result = json.loads(
        run_script("trace", "--set", "development", "--only", SMALL, "timm:resnet18", "--limit", "0.1", "--json")
    )
    assert result["summary"]["networks"] == 2
    assert result["summary"]["exact: run, train, MACs and parameters"] == 0
    assert set(result["summary"]["failures"].values()) == {"Killed: not done after 0.1 s"}


class FakeWorker:
    """Measures in no time; stops at the network called "kill"."""

    asked: list[str]

    def __init__(self) -> None:
        type(self).asked = []

    def measure(self, name: str, *, theirs: bool, seconds: float) -> dict[str, Any]:
        self.asked.append(name)
        if name == "kill":
            raise KeyboardInterrupt
        return {"name": name}

    def close(self) -> None:
        pass


def test_a_killed_run_goes_on_where_it_stood(monkeypatch, tmp_path):
    trace = load("trace", monkeypatch)
    monkeypatch.setattr(trace, "Worker", FakeWorker)
    header, log = {"command": "c", "versions": {"torch": "1"}}, tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt):
        trace.measure_all(header, ["a", "b", "kill"], log, 1.0)
    log.write_text(log.read_text() + '{"name": "kil')  # torn in the middle of a line
    assert trace.measure_all(header, ["a", "b", "c"], log, 1.0) == [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    assert FakeWorker.asked == ["c"]
    assert [json.loads(line) for line in log.read_text().splitlines()] == [header, *({"name": n} for n in "abc")]
    with pytest.raises(SystemExit, match="begun by `c`"):
        trace.measure_all({**header, "command": "other"}, ["a"], log, 1.0)


def make_outcome(name: str, *, noted: int = 0, **verdicts: bool) -> dict[str, Any]:
    draw = dict.fromkeys(("runs", "macs", "params", "in_place", "masked", "masking_shows", "trains"), True)
    return {
        "name": name,
        "times": {"total": 0.3, "trace": 0.1, "probe": 0.2, "forward": 0.1, "torch_pruning": 0.6},
        "groups": {"all": 4, "free": 3, "noted": noted},
        "ours": {
            "full_exact": True,
            "narrowest_share": 0.1,
            "one_atom_share": 0.05,
            "half_share": 0.3,
            "draws": {"narrowest": draw, "half": {**draw, **verdicts}},
        },
        "torch_pruning": {"error": "ValueError: no"},
    }


def test_the_summary_counts_what_one_sub_network_breaks(monkeypatch):
    trace = load("trace", monkeypatch)
    summary = trace.summarise(
        [
            make_outcome("good"),
            make_outcome("macs", macs=False),
            make_outcome("unequal", masked=False),
            make_outcome("said so", noted=2, masked=False),
            {"name": "dead", "error": "Died: exit code -9"},
            {"name": "raised", "times": {"error": "ModelError: no"}},
        ]
    )
    assert summary["networks"] == 6
    assert summary["traced"] == 4
    assert summary["exact: run, train, MACs and parameters"] == 3
    assert summary["without a statistic over channels"] == 3
    assert summary["  of them equal to the masked network"] == 2
    assert summary["with a statistic, said so in the graph"] == 1
    assert summary["  of them equal all the same"] == 0
    assert summary["trace and probe over Torch-Pruning's graph, median"] == 0.5
    assert summary["Torch-Pruning: errors"] == {"ValueError": 4}
    assert summary["failures"] == {
        "macs": "macs",
        "unequal": "masked",
        "dead": "Died: exit code -9",
        "raised": "ModelError: no",
    }


# cost.py --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cost_benchmark_finds_all_counters_equal():
    options = ("--only", SMALL, "--configurations", "2", "--size", "64", "--json")
    (values,) = json.loads(run_script("cost", *options))["networks"].values()
    assert values["equal_to_torch_counter"] is True
    assert values["equal_to_torch_counter_meta"] is True
    assert values["ours_many_array_per_second"] > values["torch_counter_per_second"]
    if importlib.util.find_spec("fvcore") is None:
        pytest.skip("the rest is about fvcore, which is not installed")
    assert values["equal_to_fvcore"] is True


# imagenet.py ----------------------------------------------------------------------------------------------------------


def test_the_imagenet_benchmark_counts_a_run_of_a_recipe(tmp_path, monkeypatch, capsys):
    out = tmp_path / "imagenet.json"
    monkeypatch.setattr(sys, "argv", ["imagenet.py", "--recipes", "digits", "--out", str(out)])
    load("imagenet", monkeypatch).main()
    told = json.loads(out.read_text())["digits"]
    assert told["evaluations"] > told["steps"] > 0
    assert told["networks_retrained"] == 5
    assert told["gradient_megabytes"] > 0
    assert capsys.readouterr().out.startswith("digits ")


# A training's steps ---------------------------------------------------------------------------------------------------


def test_the_gpu_benchmark_times_each_kind_of_step(monkeypatch, capsys):
    """On a processor there is nothing to record."""
    options = "--model zoo:mobilenet_small?width_mult=0.3 --batch 4 --precision 32-true --seconds 0.1"
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options.split()])
    load("gpu", monkeypatch).main()
    found = json.loads(capsys.readouterr().out)
    kinds = ["plain", "recorded", "supernet"] if torch.cuda.is_available() else ["plain", "supernet"]
    assert [row["kind"] for row in found["rows"]] == kinds
    assert all(row["steps"] >= 3 and row["milliseconds"] > 0 for row in found["rows"])


def test_the_data_benchmark_times_the_step_of_a_recipe(monkeypatch):
    told = load("data", monkeypatch).measure_step("cifar10", 1)
    assert told["images"] == told["batch"] == 128
    assert told["images_per_second"] > 0


# int8.py --------------------------------------------------------------------------------------------------------------


def test_the_int8_benchmark_times_both_files(tmp_path, monkeypatch, capsys):
    out = tmp_path / "int8.json"
    monkeypatch.setattr(sys, "argv", ["int8.py", "--only", SMALL, "--size", "64", "--rounds", "2", "--out", str(out)])
    load("int8", monkeypatch).main()
    result = json.loads(out.read_text())
    told = result["networks"][SMALL]
    assert (told["threads"], told["batch"], told["rounds"]) == (1, 1, 2)
    assert told["int8_bytes"] < told["float_bytes"]
    assert told["int8_ms"] > 0
    assert capsys.readouterr().out.startswith(f"{SMALL}: int8 ")
    assert set(result) == {"command", "date", "machine", "versions", "networks"}


def test_the_searchs_figures_follow_from_its_rows(monkeypatch):
    told = json.loads((FOLDER / "results" / "search.json").read_text())
    found = load("search", monkeypatch).summarise(told["rows"], [0, 1, 2], 5, "70,60,50,40,30")
    assert found["switches"].keys() >= {"no race", "no reuse", "fading 1"}
    for key in found.keys() - {"command", "machine"}:
        assert found[key] == told[key]
