"""Profiles: totals and layers of any network, latency, the paper's table, and the command that prints them."""

import json
import time
from functools import partial

import pytest
import torch
from torch import nn

from autoslim import Widths, build_model, extract_network, make_cost, trace_channels
from autoslim.cli import main
from autoslim.errors import ModelError, UnknownNameError, WidthsError
from autoslim.models import describe_model, official_widths
from autoslim.profile import Cell, PaperTable, profile_network, profile_paper
from autoslim.runtimes import find_runtime, measure_networks
from autoslim.saved import save_network
from autoslim.testing.networks import counted_macs

DIGITS, IMAGE = "zoo:resnet_digits", torch.zeros(1, 1, 8, 8)


# One network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [False, True])
def test_totals_and_layers_are_those_of_the_extracted_network(narrow: bool):
    model = build_model(DIGITS)
    graph = trace_channels(model, IMAGE)
    widths = graph.random_widths(3) if narrow else None
    small = extract_network(model, graph, widths or graph.max_widths()).eval()
    profile = profile_network(model, IMAGE, widths=widths, latency=False)
    assert profile.params == sum(p.numel() for p in small.parameters()) == sum(x.params for x in profile.layers)
    assert profile.macs == counted_macs(small, (IMAGE,)) == sum(x.macs for x in profile.layers)
    assert profile.memory == make_cost("memory", graph)(widths or graph.max_widths())
    assert sum(layer.share for layer in profile.layers) == pytest.approx(1)
    assert profile.latency_ms is None
    rows = {layer.layer: layer for layer in profile.layers}
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d):
            assert (rows[name].kind, rows[name].channels) == ("Conv2d", module.out_channels)
            assert rows[name].params == module.weight.numel()
    assert rows["norm"].macs == 0
    assert rows["norm"].params == 2 * rows["stem"].channels
    assert "relu" not in rows


def test_shared_and_bare_parameters_are_counted_once():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)) @ self.weight

    profile = profile_network(Odd(), torch.zeros(1, 6), latency=False)
    layers = {layer.layer: (layer.kind, layer.channels, layer.params, layer.macs) for layer in profile.layers}
    assert layers == {"": ("Odd", None, 36, 36), "first": ("Linear", 6, 42, 36), "second": ("Linear", 6, 6, 36)}
    assert (profile.params, profile.macs) == (84, 108)


def test_a_profile_leaves_the_model_alone_and_refuses_what_does_not_fit():
    model = build_model(DIGITS).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile_network(model, IMAGE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(WidthsError):
        profile_network(model, IMAGE, widths=Widths({"stem": 3}))
    with pytest.raises(ModelError):
        profile_network(model, torch.zeros(1, 2, 8, 8))


class Sleep(nn.Module):
    """Takes its time; `threads` notes on how many threads it ran."""

    def __init__(self, seconds: float, order: list[float]) -> None:
        super().__init__()
        self.seconds, self.order, self.threads = seconds, order, set[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        self.order.append(self.seconds)
        self.threads.add(torch.get_num_threads())
        assert not self.training
        return x


def test_latency_takes_turns_on_one_thread():
    order: list[float] = []
    models, threads = [Sleep(0.004, order), Sleep(0.001, order)], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        slow, fast = measure_networks(find_runtime("torch"), models, torch.zeros(1), repeats=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert order == [0.004] * 2 + [0.001] * 2 + ([0.004] * 3 + [0.001] * 3) * 5  # of three the first does not count
    assert models[0].threads == models[1].threads == {1}
    assert 4 <= slow.low <= slow.median <= slow.high
    assert 1 <= fast.median < slow.median
    assert fast.repeats == 5


# The paper's table --------------------------------------------------------------------------------------------------

TABLE = {  # name: parameters, memory, FLOPs as recomputed to the printed digit; * where print differs
    "ShuffleNet v1 1.0x": "1.8 4.9 138",
    "ShuffleNet v2 1.0x": "2.3 4.2 145*",
    "MobileNet v1 0.5x": "1.3 3.8 150",
    "MobileNet v2 0.75x": "2.6 8.5 209",
    "AMC-MobileNet v2": "2.3 7.3 211",
    "MNasNet 0.75x": "3.1 7.9 216",
    "AutoSlim-MobileNet v1 (150M)": "1.9 4.2 150",
    "AutoSlim-MobileNet v2 (207M)": "4.1 9.1 207",
    "AutoSlim-MNasNet (217M)": "4 7.5 217",
    "ShuffleNet v1 1.5x": "3.4 8 300*",
    "ShuffleNet v2 1.5x": "3.5 6.2 296*",
    "MobileNet v1 0.75x": "2.6 6.4 325",
    "MobileNet v2 1.0x": "3.5 10.2 301*",
    "NetAdapt-MobileNet v1": "- - -",
    "AMC-MobileNet v1": "2.4* 6* 294*",
    "MNasNet 1.0x": "4.3 9.8 314*",
    "AutoSlim-MobileNet v1 (325M)": "4 6.8 325",
    "AutoSlim-MobileNet v2 (305M)": "5.7 10.9 305",
    "AutoSlim-MNasNet (315M)": "6 10.3 315",
    "ShuffleNet v1 2.0x": "5.4 11.6 524",
    "ShuffleNet v2 2.0x": "7.4 11.1 583*",
    "MobileNet v1 1.0x": "4.2 9.3 569",
    "MobileNet v2 1.3x": "5.3 14.3 509",
    "MNasNet 1.3x": "6.8 14.2 535",
    "AutoSlim-MobileNet v1 (572M)": "4.6 9.5 572",
    "AutoSlim-MobileNet v2 (505M)": "6.5 14.8 505",
    "AutoSlim-MNasNet (532M)": "8.3 14.2 532",
    "ResNet-50": "25.5 36.6 4100",
    "ResNet-50 0.75x": "14.7 23.1 2300",
    "ResNet-50 0.5x": "6.9* 12.5 1100",
    "ResNet-50 0.25x": "2* 4.8 278",
    "Pruned-ResNet-50 [He et al.]": "- - -",
    "AutoSlim-ResNet-50 (3.0G)": "23.1 32.3 3000",
    "AutoSlim-ResNet-50 (2.0G)": "20.6 27.6 2000",
    "AutoSlim-ResNet-50 (1.0G)": "13.3 18.2 1000",
    "AutoSlim-ResNet-50 (570M)": "7.4 11.5 570",
}
FEW = ["MobileNet v1 0.5x", "AutoSlim-MobileNet v1 (150M)", "ResNet-50 0.5x"]


def golden(table: PaperTable) -> dict[str, str]:
    def show(cell: Cell) -> str:
        return "-" if cell.computed is None else f"{cell.computed:g}{'*' * (cell.agrees is False)}"

    return {row.name: " ".join(map(show, (row.params, row.memory, row.flops))) for row in table.rows}


def test_a_few_rows_of_the_papers_table():
    table = profile_paper(names=FEW, latency=False)
    assert golden(table) == {name: TABLE[name] for name in FEW}
    assert table.rows[0].flops.to_json() == {
        "printed": 150, "computed": 150, "exact": 149_522_176, "agrees": True
    }  # fmt: skip
    assert {column: table.count(column) for column in ("params", "memory", "flops")} == {
        "params": (2, 3), "memory": (3, 3), "flops": (3, 3)
    }  # fmt: skip
    assert table.rank_correlation() is None
    assert "cut in print" in table.rows[-1].note


@pytest.mark.slow
def test_the_whole_of_the_papers_table():
    table = profile_paper(latency=False)
    assert golden(table) == TABLE
    assert table.count("params") == (28, 31)
    assert table.count("memory") == (30, 31)
    assert table.count("flops") == (27, 34)
    for row in table.rows:
        reproduced = row.model is not None and all(
            cell.agrees is not False for cell in (row.params, row.memory, row.flops)
        )
        assert reproduced or row.note, row.name
    assert sum(row.printed_ms is not None for row in table.rows) == 31


def test_latency_stands_beside_the_printed_one():
    names = ["MobileNet v1 0.5x", "AutoSlim-MobileNet v1 (150M)", "ResNet-50 0.5x", "NetAdapt-MobileNet v1"]
    table = profile_paper(names=names, latency=True)
    rows = {row["name"]: row for row in json.loads(json.dumps(table.to_json()))["rows"]}
    cell = rows["ResNet-50 0.5x"]["latency_ms"]
    assert cell["printed"] == 81
    assert 0 < cell["low"] <= cell["computed"] <= cell["high"]
    assert rows["NetAdapt-MobileNet v1"]["latency_ms"] == {"printed": None, "computed": None}
    assert rows["NetAdapt-MobileNet v1"]["flops"] == {"printed": 285, "computed": None, "exact": None, "agrees": None}
    correlation = table.rank_correlation()
    assert correlation is not None
    assert 0.8 < correlation <= 1  # two of the three printed latencies are equal


def test_an_unknown_row_is_told():
    with pytest.raises(UnknownNameError, match=r"Unknown row of the paper's table 'MobileNet v1'\. Closest: "):
        profile_paper(names=["MobileNet v1"])


# The command --------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["profile", *args]) == 0
    return capsys.readouterr().out


def test_the_command_profiles_a_file_of_widths(capsys, tmp_path):
    graph = trace_channels(build_model(DIGITS), IMAGE)
    widths = graph.random_widths(5)
    (tmp_path / "widths.json").write_text(json.dumps(widths.to_json()))
    options = [DIGITS, "--input", "1,8,8", "--json"]
    slim = json.loads(run(capsys, *options, "--widths", str(tmp_path / "widths.json")))
    full = json.loads(run(capsys, *options))
    assert slim["macs"] == make_cost("macs", graph)(widths) < full["macs"] == 763_520
    assert slim["params"] == make_cost("params", graph)(widths)
    assert full["latency_ms"]["low"] <= full["latency_ms"]["median"] <= full["latency_ms"]["high"]
    assert full["layers"][0] == {
        "layer": "stem", "kind": "Conv2d", "channels": 16, "params": 144, "macs": 9216, "share": 9216 / 763_520
    }  # fmt: skip


def test_official_widths_give_the_official_network(capsys, tmp_path):
    spec, widths = official_widths("autoslim_mobilenet_v1_150m")
    (tmp_path / "widths.json").write_text(json.dumps(widths.to_json()))
    found = json.loads(run(capsys, spec, "--widths", str(tmp_path / "widths.json"), "--no-latency", "--json"))
    assert found["macs"] == 149_825_128
    assert found["latency_ms"] is None


def test_the_command_prints_a_table(capsys):
    out = run(capsys, DIGITS, "--input", "1,8,8")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["layer", "kind", "channels", "params", "MACs", "share"]
    assert ["stem", "Conv2d", "16", "144", "9,216", "1.2%"] in lines
    assert ["macs", "763,520"] in lines
    assert "one image, torch, 1 thread, fp32" in " ".join(out.split())


def test_a_slim_networks_folder_is_profiled_on_the_runtime_that_is_named(capsys, tmp_path):
    graph = trace_channels(build_model(DIGITS), IMAGE)
    widths = graph.uniform_widths(0.5)
    small = extract_network(build_model(DIGITS), graph, widths)
    save_network(
        tmp_path / "net", small, builder=describe_model(DIGITS, num_classes=10, in_channels=1),
        attributes=graph.attributes(widths), widths=widths, preparation={"input": [1, 1, 8, 8]}, metrics={},
    )  # fmt: skip
    found = json.loads(run(capsys, str(tmp_path / "net"), "--runtime", "onnxruntime", "--json"))
    assert found["macs"] == make_cost("macs", graph)(widths)
    assert found["peak_memory"] == make_cost("peak_memory", graph)(widths)
    assert found["latency_ms"]["median"] > 0
    assert main(["profile", str(tmp_path / "net"), "--input", "1,8,8"]) == 2
    assert "expected neither --widths nor --input. Drop them." in " ".join(capsys.readouterr().err.split())


def test_the_command_prints_the_papers_table(capsys, monkeypatch):
    monkeypatch.setattr("autoslim.cli.profile.profile_paper", partial(profile_paper, names=FEW))
    monkeypatch.setenv("COLUMNS", "140")
    out = run(capsys, "--paper", "--no-latency")
    lines = [line.split() for line in out.splitlines()]
    assert ["ResNet-50", "0.5x", "6.8", "6.9*", "12.5", "12.5", "1100", "1100", "81", "-"] in lines
    assert "Equal to the printed digit (* is not): params 2 of 3, memory 3 of 3, flops 3 of 3." in out
    data = json.loads(run(capsys, "--paper", "--no-latency", "--json"))
    assert [row["name"] for row in data["rows"]] == FEW
    assert data["cells"]["params"] == {"equal": 2, "judged": 3}
    assert data["rows"][0]["memory"]["printed"] == data["rows"][0]["memory"]["computed"] == 3.8


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "autoslim profile: no model; expected one, or --paper. Write for instance"),
        (["--paper", DIGITS], "--paper together with zoo:resnet_digits; expected one of the two. Drop --paper"),
        (["--paper", "--input", "3,32,32"], "--paper together with --input; expected one of the two."),
        (["--paper", "--widths", "w.json"], "--paper together with --widths; expected one of the two."),
    ],
)
def test_a_model_or_the_paper(args: list[str], told: str, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["profile", *args])
    assert stop.value.code == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_missing_or_wrong_file_of_widths_is_told(capsys, tmp_path):
    wrong = tmp_path / "widths.json"
    for _ in range(2):
        assert main(["profile", DIGITS, "--input", "1,8,8", "--widths", str(wrong)]) == 2
        assert capsys.readouterr().err.startswith("autoslim: `widths.json`")
        wrong.write_text("{}")
    wrong.write_text(json.dumps(Widths({"stem": 4}).to_json()))
    assert main(["profile", DIGITS, "--input", "1,8,8", "--widths", str(wrong)]) == 2
    assert capsys.readouterr().err.startswith("autoslim: Widths lack the group")
