"""The command line: its help is a golden file, its errors are told in one line, its exit codes can be relied on."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from rich.table import Table
from torch import nn

import autoslim
from autoslim import ChannelGraph, make_cost, trace_channels
from autoslim._console import make_console
from autoslim.cli import _COMMANDS, main
from autoslim.cli._explain import group_edges, group_shares

GOLDEN = Path(__file__).parent / "golden"

TERMINAL = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("help", ["--help"]),
        *((f"help_{name}", [name, "--help"]) for name in _COMMANDS),
    ],
)
def test_help_is_golden(name, args, monkeypatch, capfd):
    """It can't grow unseen: `AUTOSLIM_WRITE_GOLDEN=1 pytest tests/test_cli.py` writes it anew."""
    for key, value in TERMINAL.items():
        monkeypatch.setenv(key, value)
    try:
        code = main(args)
    except SystemExit as end:  # of a command's own parser
        code = end.code
    assert code == 0
    text = "\n".join(line.rstrip() for line in capfd.readouterr().out.splitlines()) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AUTOSLIM_WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"autoslim {autoslim.__version__}\n"


def test_trace_prints_json_that_reads_back(capsys):
    assert main(["trace", "zoo:resnet_digits", "--input", "1,1,8,8", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    graph = ChannelGraph.from_json(data)
    assert graph.inputs == ((1, 1, 8, 8),)
    assert data["shares"] == group_shares(graph)


def test_trace_prints_a_table_with_the_reasons(capsys):
    assert main(["trace", "zoo:resnet_digits", "--input", "1,8,8"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the network's output" in out
    assert "764k widest" in out


def test_trace_prints_layers_shares_and_each_reason_once(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["trace", f"{__file__}:Reduced", "--input", "3,8,8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["group", "layers", "channels", "candidates", "MACs", "params"]
    assert lines[1].split() == [
        "stem",
        "stem,",
        "norm,",
        "wide,",
        "and",
        "1",
        "more",
        "16",
        "4",
        "8",
        "12",
        "16",
        *SHARES,
    ]
    (start,) = [index for index, line in enumerate(lines) if "the order of channels matters to aten.cumsum" in line]
    assert lines[start].startswith("frozen (1): ")
    assert "test_cli.py:" in lines[start]
    assert lines[start + 1] == "  wide, deep"
    assert sum("frozen (1)" in line for line in lines) == 3  # both rows point to the one reason


class Reduced(nn.Module):
    """Two groups frozen for one reason, one that is free."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.wide, self.deep, self.head = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        y = self.norm(self.stem(x))
        z = torch.cat([self.wide(y), self.deep(y)], 1)
        return self.head(z) * z.cumsum(1)[:, :1]


# stem: its own 3 x 16 and what reads it, 16 x 12, of those and the head's 12 x 4; then with biases and BatchNorm
SHARES = [f"{(48 + 192) / 288:.1%}", f"{(48 + 16 + 32 + 192) / (288 + 16 + 32 + 12 + 4):.1%}"]


def test_a_factory_that_needs_a_number_of_classes_can_be_looked_at(capsys, tmp_path):
    """The tutorial's: `make(num_classes, in_channels)`. What was assumed is told beside the JSON, not in it."""
    path = tmp_path / "mymodel.py"
    path.write_text(
        "from torch import nn\n\n\ndef make(num_classes, in_channels, *, width=8):\n"
        "    layers = nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.Linear(width, num_classes))\n",
        encoding="utf-8",
    )
    spec, shape = f"{path}:make", ["--input", "3,16,16", "--json"]
    assert main(["trace", spec, *shape]) == 0
    told = capsys.readouterr()
    assert ChannelGraph.from_json(json.loads(told.out)).groups[-1].size == 10
    assert told.err == f"num_classes 10, for want of data; give {spec}?num_classes=N\n"
    assert main(["profile", f"{spec}?width=4", *shape, "--no-latency"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["params"] == (3 * 9 + 1) * 4 + (4 + 1) * 10
    assert told.err == f"num_classes 10, for want of data; give {spec}?width=4&num_classes=N\n"
    assert main(["trace", f"{spec}?num_classes=7", *shape]) == 0
    told = capsys.readouterr()
    assert (ChannelGraph.from_json(json.loads(told.out)).groups[-1].size, told.err) == (7, "")


def test_trace_prints_a_graphviz_file(capsys):
    assert main(["trace", "zoo:resnet_digits", "--input", "1,8,8", "--dot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("digraph channels {", "}")
    assert '  "stage2.conv2" -> "stage3.conv1";' in lines
    (head,) = [line for line in lines if line.startswith('  "head" [')]
    assert 'label="head: 10 channels\\nhead"' in head
    assert 'tooltip="the network\'s output"' in head
    assert main(["trace", "zoo:resnet_digits", "--dot", "--json"]) == 2
    assert "--json and --dot were both given; expected one. Drop the other." in capsys.readouterr().err


def test_edges_are_who_reads_whom():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.up = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(14, 10, 2)
            self.deep, self.same = nn.Conv2d(10, 10, 3, groups=10, padding=1), nn.Conv2d(10, 10, 1)
            self.head = nn.Linear(10, 5)

        def forward(self, x):
            y = self.deep(self.up(torch.cat([self.a(x), self.b(x)], 1)))
            return self.head((y + self.same(y)).mean((2, 3)))

    graph = trace_channels(Net(), torch.zeros(1, 3, 4, 4))
    assert group_edges(graph) == [("a", "up"), ("b", "up"), ("up", "up"), ("up", "head")]
    shares = {share["group"]: share for share in group_shares(graph)}
    counted = 16 * 8 * 3 + 16 * 6 * 3 + 16 * 4 * 14 * 10 + 25 * 9 * 10 + 25 * 100 + 50
    assert make_cost("macs", graph)(graph.max_widths()) == counted
    assert shares["a"]["macs"] == pytest.approx((16 * 8 * 3 + 16 * 4 * 8 * 10) / counted)
    params = sum(p.numel() for p in Net().parameters())
    assert shares["head"]["params"] == pytest.approx(55 / params)
    assert shares["b"]["params"] == pytest.approx((6 * 4 + 6 * 10 * 4) / params)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["rnu"], "autoslim: Unknown command 'rnu'. Closest: run"),
        (["run", "digit"], "autoslim: Unknown recipe 'digit'. Closest: digits."),
        (["run", "--budget", "mac<=50%"], "autoslim: Unknown cost 'mac'. Closest: macs, latency."),
        (["run", "--budget", "macs<=1%"], "autoslim: "),
        (["run", "--model", "zoo:resnet_digit"], "autoslim: Unknown"),
        (["run", "--model", "torchvision:mobilnet_v2"], "autoslim: Unknown"),
        (["run", "--data", "digts"], "autoslim: Unknown"),
        (["run", "--data", "folder:nowhere"], "autoslim: folder:nowhere"),
        (["run", "--input", "3,x"], "autoslim: Input shape '3,x': expected channels,height,width."),
        (["run", "--keep", "stag1"], "autoslim: Unknown layer or channel group 'stag1'. Closest: stage1"),
        (["run", "--resume", "nowhere"], "autoslim: `run.json` is missing in nowhere."),
    ],
)  # fmt: skip
def test_errors_are_told_without_a_traceback_and_leave_nothing(args, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(told)
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_an_error_names_what_is_not_utf8(capsys):
    assert main(["run", "--data", "folder:caf\udce9"]) == 2
    assert capsys.readouterr().err.startswith("autoslim: folder:caf\\udce9: there is no such folder")


def test_names_are_printed_as_they_are(capsys):
    """Neither emoji nor markup is read into them."""
    assert main(["run", "--data", "folder:cat:/[bold]x"]) == 2
    assert capsys.readouterr().err.startswith("autoslim: folder:cat:/[bold]x")
    make_console(soft_wrap=True).print(json.dumps({"folder:cat:": ":cat: [red]"}))
    assert json.loads(capsys.readouterr().out) == {"folder:cat:": ":cat: [red]"}
    table = Table(":cat:", "[red]", box=None)
    make_console().print(table)
    assert capsys.readouterr().out.split() == [":cat:", "[red]"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--budget", "macs<50%"], "Budget 'macs<50%': can't read 'macs<50%'; expected metric<=number with"),
        (["--widen", "0.5"], "RunConfig.widen is 0.5; expected 1 (the network as given) or more."),
        (["--limit", "layer4"], "Limit 'layer4': expected a path or glob, a colon, then min=N, divisor=N or both"),
        (["--baselines", "none,base"], "RunConfig.baselines is 'none,base'; expected base, uniform, both with a comma"),
        (["--search-images", "0"], "RunConfig.search_images is 0; expected at least 1."),
        (["--lr", "-1"], "TrainConfig.lr is -1.0; expected above 0. Give another --lr"),
        (["--weight-decay", "-1"], "TrainConfig.weight_decay is -1.0; expected 0 or more."),
        (["--momentum", "1.5"], "TrainConfig.momentum is 1.5; expected 0 or more, below 1."),
        (["--budget", "macs<=50", "--budget", "macs<=50%"], "would share the folder 'macs-50'"),
    ],
)
def test_settings_that_do_not_fit_are_told_with_the_option(args, told, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", *args])
    assert stop.value.code == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in err


def test_an_unknown_option_is_told_with_the_closest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--bugdet", "macs<=50%"])
    assert stop.value.code == 2
    assert "--budget" in capsys.readouterr().err


def test_given_budgets_replace_the_recipes(tmp_path, monkeypatch, capsys):
    for key, value in TERMINAL.items():
        monkeypatch.setenv(key, value)
    out = tmp_path / "out"
    options = ["--epochs-supernet", "1", "--epochs-retrain", "1", "--baselines", "none", "--search-images", "50"]
    model = ["--model", "zoo:resnet_digits?width=8"]
    budgets = ["--budget", "macs<=60%", "--budget", "params<=70%"]
    assert main(["run", *model, *budgets, "--out", str(out), *options]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [row["budget"] for row in summary["budgets"]] == ["macs<=60%", "params<=70%"]
    assert summary["command"].startswith("autoslim run digits --model 'zoo:resnet_digits?width=8'")
    plan = ["plan"] * 8  # MACs, parameters, two budgets, the supernet, the search, the retraining, and all three
    stages = ["recipe", "data", "trace", *plan, "supernet", "search", "search", "retrain", "retrain", "test", "test"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*stages, "report"]
    assert lines[0].startswith("recipe    digits, as none was named: --lr 0.1, ")
    assert (out / "report.html").exists()


def test_the_process_is_set_where_it_starts(monkeypatch, capsys):
    """As `python -m autoslim` starts it."""
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "")  # so that it will be what it was
    monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "autoslim.__main__", raising=False)
    monkeypatch.setattr(sys, "argv", ["autoslim", "rnu"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("autoslim", run_name="__main__")
    assert end.value.code == 2
    assert "Unknown command 'rnu'" in capsys.readouterr().err
    assert os.environ[name] == "16384"
