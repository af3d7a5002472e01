"""The shelf of models: every form of a name, what its errors say, and the way back from a description."""

import importlib
import inspect
import json
import pickle
import socket
import sys
import textwrap
from urllib.parse import quote

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoslim import trace_channels
from autoslim.errors import ModelError, UnknownNameError
from autoslim.models import BUILDERS, OFFICIAL, ZOO, build_model, describe_model, rebuild_model
from autoslim.models._spec import pack_value, parse_spec, parse_value, unpack_value

NET = """
    from torch import nn

    def make(width=4, num_classes=3, in_channels=1):
        return nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.Flatten(), nn.LazyLinear(num_classes))
"""


@pytest.fixture(autouse=True, scope="module")
def _offline(tmp_path_factory):
    """Any try to reach a network fails, and no weights lie in the cache: loading pretrained ones fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("a model was about to be downloaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _leaves_no_trace():
    """`sys.path` stays as it was; of what files bring into `sys.modules`, each test clears its own."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    assert sys.path == path
    for name in set(sys.modules) - modules:
        if name.startswith("autoslim_file_") or name in ("blocks", "parts", "parts.layers"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def write(source, path="net.py"):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(textwrap.dedent(source))
        return file

    return write


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def fails(call, *parts, kind=ModelError):
    """The message of the error that `call` raises has these parts, in this order."""
    with pytest.raises(kind) as caught:
        call()
    text, place = str(caught.value), 0
    for part in parts:
        assert part in text[place:], f"{part!r} is not in (the rest of) {text!r}"
        place = text.index(part, place) + len(part)
    return caught.value


# Names and arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("timm:resnet18", ("timm", "resnet18", {})),
        ("zoo:a?", ("zoo", "a", {})),
        ("zoo:a?b=1&c=x", ("zoo", "a", {"b": "1", "c": "x"})),
        ("zoo:a?b=c=d?e", ("zoo", "a", {"b": "c=d?e"})),
        ("dir/my.net.py:make?b=", ("file", "dir/my.net.py:make", {"b": ""})),
        ("/a:b/c d.py:Net", ("file", "/a:b/c d.py:Net", {})),
    ],
)
def test_a_name_is_taken_apart(spec, parts):
    parsed = parse_spec(spec)
    assert (parsed.builder, parsed.name, parsed.texts) == parts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e+3", 1e3),  # a plus is a plus, not a space as in a web form
        ("-2", -2),
        ("True", True),
        ("None", None),
        ("(1, 2)", (1, 2)),
        ("relu", "relu"),
        ("'1'", "1"),
        ("a%26b", "a&b"),
        ("50%", "50%"),
        ("", ""),
        ("1if", "1if"),
        ("__import__('os')", "__import__('os')"),
        ("{[]: 1}", "{[]: 1}"),
        ("(" * 10_000, "(" * 10_000),
    ],
)
def test_values_are_literals_or_else_text(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
LITERALS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abliteral", max_size=7), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(LITERALS)
def test_any_literal_survives_the_name_and_the_description(value):
    texts = parse_spec(f"zoo:a?b={quote(repr(value))}&c=1").texts
    assert repr(parse_value(texts["b"])) == repr(value)
    packed = json.loads(json.dumps(pack_value(texts["b"]), allow_nan=False))
    assert repr(unpack_value(packed)) == repr(value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_a_value(text):
    assert unpack_value(json.loads(json.dumps(pack_value(quote(text))))) == parse_value(quote(text))


def test_what_json_changes_is_kept_as_text():
    assert [pack_value(text) for text in ("[1, 'a']", "(1, 2)", "[(1,)]", "{'literal': 1}", "1e999")] == [
        [1, "a"],
        {"literal": "(1, 2)"},
        {"literal": "[(1,)]"},
        {"literal": "{'literal': 1}"},
        {"literal": "1e999"},
    ]
    assert unpack_value({"literal": "1e999"}) == float("inf")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("zoo:resnet_digits?width", ["`zoo:resnet_digits?width`", "'width'", "expected `name=value`", "Write"]),
        ("zoo:resnet_digits?a-b=1", ["'a-b=1' after `?` is no argument"]),
        ("zoo:resnet_digits?width=1&", ["'' after `?` is no argument"]),
        ("zoo:resnet_digits?width=1&width=2", ["`width` is given twice", "expected once", "Drop one"]),
    ],
)
def test_a_malformed_query_is_refused(spec, parts):
    fails(lambda: build_model(spec), *parts)


# Libraries and the zoo ----------------------------------------------------------------------------------------------

FORMS = [
    ("torchvision:mobilenet_v2?width_mult=0.25", {"num_classes": 7}, 3, 7),
    ("torchvision:resnet18?num_classes=5&groups=1", {"num_classes": 7, "in_channels": 3}, 3, 5),
    ("timm:mobilenetv2_100", {"num_classes": 7, "in_channels": 1}, 1, 7),
    ("timm:mobilenetv2_050.lamb_in1k?in_chans=2&bn_eps=1e-3", {"num_classes": 7, "in_channels": 1}, 2, 7),
    ("zoo:resnet_digits?width=8", {"num_classes": 7, "in_channels": 2}, 2, 7),
    ("zoo:mobilenet_small?width_mult=0.5&num_classes=5", {"num_classes": 7}, 3, 5),
]


@pytest.mark.parametrize(("spec", "inputs", "channels", "classes"), FORMS)
def test_every_form_builds_and_is_rebuilt_from_its_description(spec, inputs, channels, classes):
    model = build_model(spec, **inputs).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, channels, 32, 32)).shape == (2, classes)
    config = describe_model(spec, **inputs)
    assert set(config) == {"builder", "name", "arguments"}
    assert shapes(rebuild_model(json.loads(json.dumps(config)))) == shapes(model)


def test_the_arguments_after_the_name_reach_the_builder():
    model = build_model("timm:mobilenetv2_050?bn_eps=1e-2")
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-2}
    assert describe_model("timm:mobilenetv2_050?bn_eps=1e-2&in_chans=1", num_classes=9, in_channels=3) == {
        "builder": "timm",
        "name": "mobilenetv2_050",
        "arguments": {"num_classes": 9, "in_chans": 1, "bn_eps": 0.01},
    }
    assert build_model("torchvision:mobilenet_v2?width_mult=0.25").classifier[1].out_features == 1000  # its own default


def test_a_tuple_reaches_the_builder_as_a_tuple():
    config = describe_model("timm:mobilenetv2_050?features_only=True&out_indices=(1,3)")
    assert config["arguments"] == {"features_only": True, "out_indices": {"literal": "(1,3)"}}
    model = rebuild_model(json.loads(json.dumps(config))).eval()
    with torch.no_grad():
        assert [x.shape[-1] for x in model(torch.zeros(1, 3, 32, 32))] == [8, 2]


@pytest.mark.parametrize(
    "name",
    ["googlenet", "quantized_googlenet", "inception_v3", "lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"],
)
def test_no_torchvision_builder_warns_or_downloads(name):
    with torch.device("meta"):
        assert isinstance(build_model(f"torchvision:{name}", num_classes=7, in_channels=3), nn.Module)


def test_initialisation_may_still_be_asked_for():
    with torch.device("meta"), pytest.raises(ModelError, match="init_weights='what'"):
        build_model("torchvision:googlenet?init_weights=what&num_classes=x")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (
            "mobilenet_v2",
            ["Unknown model 'mobilenet_v2'", "Closest: torchvision:mobilenet_v2.", "Write `torchvision:NAME`"],
        ),
        ("torchvison:resnet18", ["Unknown model 'torchvison:resnet18'", "torchvision:resnet18"]),
        ("resnet_digts", ["zoo:resnet_digits", "path/to/file.py:FACTORY"]),
        ("", ["Unknown model ''", "Write"]),
        ("net.py", ["Model 'net.py': a file, but nothing in it", "expected `path/to/file.py:FACTORY`", "Append `:`"]),
        ("torchvision:mobilenet_v22", ["Unknown torchvision model 'mobilenet_v22'", "Closest: mobilenet_v2"]),
        ("timm:mobilenetv2_10", ["Unknown timm model 'mobilenetv2_10'", "mobilenetv2_100"]),
        ("timm:hf-hub:someone/something", ["Unknown timm model 'hf-hub:someone/something'"]),
        ("zoo:resnet", ["Unknown zoo model 'resnet'", "Closest: resnet50, resnet_digits"]),
    ],
)
def test_an_unknown_name_lists_the_closest(spec, parts):
    for call in (build_model, describe_model):
        fails(lambda call=call: call(spec), *parts, kind=UnknownNameError)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("torchvision:mobilenet_v2", ["foo=1", "TypeError", "signature it takes", "`num_classes`, `width_mult`"]),
        (
            "timm:mobilenetv2_100",
            ["foo=1", "TypeError", "signature it takes", "`num_classes`", "`in_chans`", "`drop_rate`"],
        ),
        ("zoo:resnet_digits", ["foo=1", "TypeError", "signature it takes", "`num_classes`, `in_channels`, `width`."]),
    ],
)
def test_a_wrong_argument_names_the_accepted_ones(spec, parts):
    error = fails(lambda: build_model(f"{spec}?foo=1"), f"Model `{spec}`: called with", *parts, "Change the arguments")
    assert isinstance(error.__cause__, TypeError)


@pytest.mark.parametrize(
    "spec",
    [
        "torchvision:resnet18?weights=DEFAULT",
        "torchvision:fcn_resnet50?weights_backbone=DEFAULT",
        "torchvision:resnet18?pretrained=True",
        "timm:resnet18?pretrained=True",
        "timm:resnet18?checkpoint_path=a.pth",
    ],
)
def test_weights_are_refused(spec):
    name, _, argument = spec.partition("?")
    fails(
        lambda: build_model(spec),
        f"`{name}`: `{argument.split('=')[0]}` loads weights",
        "expected none",
        "Leave it out",
    )


def test_torchvision_takes_three_channels_only():
    parts = ["`torchvision:resnet18`: in_channels=1", "expected 3", "Give `--input` with 3 channels"]
    fails(lambda: build_model("torchvision:resnet18", in_channels=1), *parts)


# The zoo's networks -------------------------------------------------------------------------------------------------


def count_macs(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def test_the_zoo_holds_what_it_should():
    paper = {"mobilenet_v1", "shufflenet_v1", "mnasnet", "resnet50"}  # these and the official ones: test_zoo.py
    assert set(ZOO) == {"resnet_digits", "mobilenet_small", "mobilenet_v2_32", "vgg16_32"} | paper | set(OFFICIAL)
    assert set(BUILDERS) == {"torchvision", "timm", "zoo", "file"}


def test_resnet_digits():
    model, x = build_model("zoo:resnet_digits").eval(), torch.zeros(2, 1, 8, 8)
    assert model(x).shape == (2, 10)
    assert count_macs(model, x[:1]) == 763_520
    assert [model.stage1(torch.zeros(1, 16, 8, 8)).shape, model.stage3(torch.zeros(1, 32, 4, 4)).shape] == [
        (1, 16, 8, 8),
        (1, 64, 2, 2),
    ]


def test_mobilenet_small():
    model, x = build_model("zoo:mobilenet_small").eval(), torch.zeros(2, 3, 32, 32)
    assert model(x).shape == (2, 10)
    assert count_macs(model, x[:1]) == 12_519_936
    free = [group for group in trace_channels(model, x[:1]).groups if group.frozen is None]
    assert len(free) == 16
    assert all(group.size % 8 == 0 for group in free)


@pytest.mark.parametrize("width_mult", [0.1, 0.35, 0.5, 0.77, 1.5])
def test_scaled_channels_are_multiples_of_eight(width_mult):
    model = build_model(f"zoo:mobilenet_small?width_mult={width_mult}")
    assert all(m.out_channels % 8 == 0 for m in model.modules() if isinstance(m, nn.Conv2d))
    assert model.classifier.in_features >= 0.9 * 256 * width_mult


@pytest.mark.parametrize("name", ["mobilenet_small", "resnet_digits"])
def test_zoo_networks_start_out_well_scaled_and_learn(name):
    torch.manual_seed(0)
    model = build_model(f"zoo:{name}", num_classes=4, in_channels=3)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    first = last = nn.functional.cross_entropy(model(x), y)
    assert first < 2.5  # ln 4 = 1.39
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(8):
        optimizer.zero_grad()
        last.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        last = nn.functional.cross_entropy(model(x), y)
    assert last < 0.5 * first


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnet_digits?width=0", "resnet_digits: num_classes=10, in_channels=1, width=0; expected 1 or more"),
        (
            "mobilenet_small?width_mult=-1",
            "width_mult=-1; expected 1 or more classes and channels, and a width above 0",
        ),
        ("mobilenet_small?num_classes=0", "mobilenet_small: num_classes=0"),
    ],
)
def test_the_zoo_refuses_empty_networks(spec, said):
    fails(lambda: build_model(f"zoo:{spec}"), said, "Raise the one")


# Files --------------------------------------------------------------------------------------------------------------


def test_a_file_builds_and_is_rebuilt_from_its_description(write, tmp_path, monkeypatch):
    path = write(NET)
    model = build_model(f"{path}:make?width=6", num_classes=5, in_channels=2)
    assert model(torch.zeros(1, 2, 3, 3)).shape == (1, 5)
    monkeypatch.chdir(tmp_path)
    config = describe_model("net.py:make?width=6", num_classes=5, in_channels=2)
    assert {key: config[key] for key in ("builder", "name", "path", "factory")} == {
        "builder": "file",
        "name": "net.py:make",
        "path": str(path.resolve()),
        "factory": "make",
    }
    assert config["arguments"] == {"num_classes": 5, "in_channels": 2, "width": 6}
    assert len(config["sha256"]) == 64
    monkeypatch.chdir("/")
    rebuilt = rebuild_model(json.loads(json.dumps(config)))
    assert rebuilt(torch.zeros(1, 2, 3, 3)).shape == (1, 5)
    assert shapes(rebuilt) == shapes(model)


@pytest.mark.parametrize(
    ("signature", "passed"),
    [
        ("", {}),
        ("in_chans=3, num_classes=2", {"num_classes": 5, "in_chans": 1}),
        ("in_channels=3", {"in_channels": 1}),
        ("**kwargs", {"num_classes": 5}),
        ("*, in_channels, **kwargs", {"num_classes": 5, "in_channels": 1}),
        ("num_classes=2, /", {}),
    ],
)
def test_a_factory_gets_only_what_it_knows(write, signature, passed):
    path = write(f"from torch import nn\ndef make({signature}): return nn.Identity()")
    assert describe_model(f"{path}:make", num_classes=5, in_channels=1)["arguments"] == passed
    assert isinstance(build_model(f"{path}:make", num_classes=5, in_channels=1), nn.Identity)
    assert describe_model(f"{path}:make")["arguments"] == {}


def test_a_class_is_a_factory_and_its_network_pickles_and_shows_its_source(write):
    path = write("""
        from __future__ import annotations
        from dataclasses import dataclass
        from torch import nn

        @dataclass
        class Config:  # its fields are looked up in sys.modules
            width: int = 2

        class Net(nn.Module):
            def __init__(self, width: int = 2):
                super().__init__()
                self.conv = nn.Conv2d(1, Config(width).width, 1)
    """)
    model = build_model(f"{path}:Net?width=3")
    assert shapes(pickle.loads(pickle.dumps(model))) == shapes(model)
    assert "class Net(nn.Module)" in inspect.getsource(type(model))
    assert type(build_model(f"{path}:Net")) is type(model)  # the same bytes are run once


def test_a_missing_file(tmp_path):
    error = fails(
        lambda: build_model(f"{tmp_path}/net.py:make"),
        f"`{tmp_path}/net.py`",
        "No such file",
        "expected a Python file",
        "Check",
    )
    assert isinstance(error.__cause__, FileNotFoundError)


def test_a_file_without_that_factory_lists_what_it_has(write):
    path = write(NET + "\n    class Net(nn.Module): pass\n    _hidden = make\n    model = nn.ReLU()\n    size = 3")
    said = ["expected a function or class", "The file has: `make`, `Net`. Name one"]
    fails(lambda: build_model(f"{path}:mak"), f"`{path}`: `mak` is nothing of that name", *said)
    fails(lambda: build_model(f"{path}:model"), "`model` is a ReLU", *said)
    fails(lambda: build_model(f"{path}:size"), "`size` is a int", *said)
    fails(lambda: build_model(f"{write('', 'empty.py')}:make"), "The file has: none.")


def test_a_factory_that_makes_no_network(write):
    path = write("def make(a=1): return a, 2")
    fails(
        lambda: build_model(f"{path}:make?a=3"),
        "`net.py:make`: called with a=3",
        "returned tuple",
        "expected",
        "Name a",
    )


def test_a_factory_that_fails(write):
    path = write("def make(a): return {}[a]")
    error = fails(lambda: build_model(f"{path}:make?a=3"), "`net.py:make`", "a=3", "KeyError: 3", "`a`", "Change")
    assert isinstance(error.__cause__, KeyError)
    error = fails(lambda: build_model(f"{path}:make"), "called with no arguments", "TypeError", "it takes `a`")


@pytest.mark.parametrize(
    ("source", "said"),
    [("1 / 0", "ZeroDivisionError"), ("def (", "SyntaxError"), ("import sys; sys.exit(2)", "SystemExit: 2")],
)
def test_a_file_that_fails_on_import_leaves_nothing_behind(write, source, said):
    write("", "blocks.py")
    path = write(f"import blocks\n{source}\n")
    before = set(sys.modules)
    error = fails(lambda: build_model(f"{path}:make"), f"`{path}`: importing it raised", said, "expected", "Correct it")
    assert type(error.__cause__).__name__ in said
    assert {name for name in set(sys.modules) - before if not name.startswith("encodings")} == set()


def test_ctrl_c_while_a_file_loads_is_no_model_error(write):
    path = write("raise KeyboardInterrupt")
    for _ in range(2):  # nor is the half-run module taken for the whole one
        with pytest.raises(KeyboardInterrupt):
            build_model(f"{path}:make")


def test_a_changed_file_is_refused_and_its_new_code_is_what_a_new_build_runs(write):
    path = write("from torch import nn\ndef make(): return nn.Linear(1, 2)")
    config = describe_model(f"{path}:make")
    assert build_model(f"{path}:make").out_features == 2
    write("from torch import nn\ndef make(): return nn.Linear(1, 3)")  # same size, same second: no stale bytecode
    now = describe_model(f"{path}:make")["sha256"]
    fails(lambda: rebuild_model(config), f"`{path}`", now, f"expected {config['sha256']}", "Put it back as it was")
    assert build_model(f"{path}:make").out_features == 3
    path.unlink()
    fails(lambda: rebuild_model(config), f"`{path}`: No such file", config["sha256"], "Put it back", "`path`")


def test_a_moved_file_is_found_where_the_description_is_told(write):
    config = describe_model(f"{write(NET)}:make")
    moved = write(NET, "elsewhere/other.py")
    assert isinstance(rebuild_model({**config, "path": str(moved)}), nn.Sequential)


def test_files_import_from_their_own_folder_only(write):
    specs = []
    for width in (1, 2):
        write(f"WIDTH = {width}", f"{width}/blocks.py")
        write("", f"{width}/parts/__init__.py")
        write(f"WIDTH = {width}", f"{width}/parts/layers.py")
        source = "import blocks, colorsys\nfrom parts import layers\nfrom torch import nn\n"
        source += "def make(): return nn.Linear(blocks.WIDTH, layers.WIDTH)\n"
        specs.append(f"{write(source, f'{width}/net.py')}:make")
    sys.modules.pop("colorsys", None)
    for _ in range(2):
        assert [build_model(spec).in_features for spec in specs] == [1, 2]
        assert [build_model(spec).out_features for spec in specs] == [1, 2]
    assert "colorsys" in sys.modules  # the standard library's are no business of ours
    assert sys.modules["blocks"].WIDTH == 2


def test_a_module_of_the_search_path_stays(write, tmp_path, monkeypatch):
    write("", "blocks.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    build_model(f"{write('import blocks' + textwrap.dedent(NET))}:make")
    build_model(f"{write(NET, 'elsewhere/net.py')}:make")
    assert sys.modules["blocks"] is importlib.import_module("blocks")
    monkeypatch.undo()


def test_one_module_a_file_and_no_more(write):
    path = write(NET)
    before = set(sys.modules)
    for _ in range(3):
        build_model(f"{path}:make")
    added = set(sys.modules) - before
    assert len(added) == 1
    assert added.pop().startswith("autoslim_file_net_")


# Descriptions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "parts", "kind"),
    [
        ({"name": "resnet_digits", "arguments": {}}, ["no `builder`", "expected", "`describe_model`"], ModelError),
        ({"builder": "zoo", "name": "resnet_digits"}, ["no `arguments`"], ModelError),
        ({"builder": "zoo", "arguments": {}}, ["no `name`"], ModelError),
        ({"builder": "file", "name": "a", "arguments": {}}, ["no `path`", "`sha256`"], ModelError),
        ({"builder": "zoo", "name": "resnet_digits", "arguments": []}, ["`arguments` is []", "expected"], ModelError),
        ({"builder": "zo", "name": "a", "arguments": {}}, ["Unknown model builder 'zo'", "zoo"], UnknownNameError),
        ({"builder": "zoo", "name": "resnet", "arguments": {}}, ["Closest: resnet50, resnet_digits"], UnknownNameError),
    ],
)
def test_a_broken_description_is_refused(config, parts, kind):
    fails(lambda: rebuild_model(config), *parts, kind=kind)
