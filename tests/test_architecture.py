"""The walls of the house, read from docs/architecture.md: layers, shelves, sizes, and what `import autoslim` loads.

Every rule is a function of sources (path below src/autoslim -> text), so that a made-up tree proves that it can fail.
"""

import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "architecture.md"
HEAVY = (
    "timm",
    "datasets",
    "matplotlib",
    "onnxruntime",
    "sklearn",
    "tyro",
    "torchvision",
    "lightning_fabric",
    "scipy",
    "triton",
    "torchmetrics",
    "pycocotools",
)
MOST_MODULE, MOST_FUNCTION, MOST_NAMES = 400, 60, 25

Sources = Mapping[str, str]


# What the document says ---------------------------------------------------------------------------------------------


def parse_layers(text: str) -> dict[str, int]:
    """{unit: layer}, from the one line that starts with "L0"."""
    (line,) = [line for line in text.splitlines() if line.startswith("L0 ")]
    layers = {"_version": 0}
    for number, part in enumerate(line.split(" · ")):
        match = re.fullmatch(rf"L{number} `([\w ]+)`", part)
        assert match, f"layer {number} is written {part!r}; expected L{number} and the units in backticks"
        for unit in match.group(1).split():
            assert unit not in layers, f"{unit} stands on two layers"
            layers[unit] = number
    return layers


def parse_shelves(text: str) -> set[str]:
    """The folders that the layout calls a shelf."""
    return set(re.findall(r"^[├└]── (\w+)/ .*\bSHELF\b", text, re.MULTILINE))


# What the sources do ------------------------------------------------------------------------------------------------


def read_sources() -> dict[str, str]:
    folder = ROOT / "src" / "autoslim"
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.py"))}


def module_of(path: str) -> str:
    """ "search/greedy.py" -> "search.greedy", "search/__init__.py" -> "search", "__init__.py" -> ""."""
    return path.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")


parse = functools.lru_cache(maxsize=None)(ast.parse)  # every rule asks for every module


def unit_of(module: str) -> str:
    return module.split(".")[0] or "__init__"


def find_imports(sources: Sources, path: str) -> Iterator[tuple[ast.stmt, str]]:
    """Each import of one of our modules, also below `if TYPE_CHECKING`, with the module's name after "autoslim"."""
    modules = {module_of(other) for other in sources}
    package = ["autoslim", *path.split("/")[:-1]]
    for node in ast.walk(parse(sources[path])):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                if name.split(".")[0] == "autoslim":
                    yield node, name.removeprefix("autoslim").removeprefix(".")
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            parts = [*above, *(node.module.split(".") if node.module else [])]
            if parts and parts[0] == "autoslim":
                for alias in node.names:
                    inner = ".".join([*parts[1:], alias.name])
                    yield node, inner if inner in modules else ".".join(parts[1:])


def check_units(sources: Sources, layers: Mapping[str, int]) -> list[str]:
    """Every unit on disk has a layer."""
    units = {unit_of(module_of(path)) for path in sources}
    return [f"{unit} has no layer" for unit in sorted(units - set(layers))]


def check_circles(sources: Sources) -> list[str]:
    """No modules import each other in a circle, be it for types alone; a package's own names come from its parts."""
    graph: dict[str, set[str]] = {}
    for path in sources:
        module = module_of(path)
        told = {target for _, target in find_imports(sources, path)} - {module}
        graph[module] = {target for target in told if not module.startswith(f"{target}.") and target}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"a circle of {', '.join(sorted(set(error.args[1])))}"]
    return []


def check_layers(sources: Sources, layers: Mapping[str, int]) -> list[str]:
    """Imports go to a strictly lower layer, or stay inside their unit."""
    problems: list[str] = []
    for path in sources:
        unit = unit_of(module_of(path))
        for node, target in find_imports(sources, path):
            other = unit_of(target)
            if other != unit and layers.get(other, 99) >= layers.get(unit, -1):
                problems.append(f"{path}:{node.lineno}: {unit} imports {other}, which is not on a lower layer")
    return problems


def check_shelves(sources: Sources, shelves: set[str]) -> list[str]:
    """Siblings on a shelf know only each other's private modules; the shelf's `__init__` imports all public ones."""
    problems: list[str] = []
    for shelf in sorted(shelves):
        files = [path for path in sources if path.startswith(f"{shelf}/")]
        for path in files:
            if path == f"{shelf}/__init__.py":
                continue
            for node, target in find_imports(sources, path):
                member = target.removeprefix(shelf).removeprefix(".").split(".")[0]
                own = module_of(path).split(".")[1]
                if unit_of(target) == shelf and not member.startswith("_") and member != own:
                    problems.append(f"{path}:{node.lineno}: imports its sibling {member or '__init__'}")
        entrance = f"{shelf}/__init__.py"
        seen = {target for _, target in find_imports(sources, entrance)} if entrance in sources else set[str]()
        members = {".".join(module_of(path).split(".")[:2]) for path in files if path != entrance}
        for member in sorted(members):
            if not member.split(".")[1].startswith("_") and not any(
                f"{each}.".startswith(f"{member}.") for each in seen
            ):
                problems.append(f"{entrance}: does not import {member}")
    return problems


def check_style(sources: Sources) -> list[str]:
    """No star imports, no print, one maker of consoles, and our own modules are imported at the top only."""
    problems: list[str] = []
    for path, text in sources.items():
        tree = parse(text)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inner = {
            (n.lineno, n.col_offset) for function in functions for n in ast.walk(function) if isinstance(n, ast.stmt)
        }
        for node, target in find_imports(sources, path):
            if (node.lineno, node.col_offset) in inner:
                problems.append(f"{path}:{node.lineno}: imports {target or 'autoslim'} inside a function")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                problems.append(f"{path}:{node.lineno}: imports *")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                problems.append(f"{path}:{node.lineno}: calls print")
            if isinstance(node, ast.Call) and path != "_console.py" and names_console(node.func):
                problems.append(f"{path}:{node.lineno}: makes a console of its own")
    return list(dict.fromkeys(problems))


def names_console(function: ast.expr) -> bool:
    """Whether `Console` is among the names that a dotted one consists of."""
    while isinstance(function, ast.Attribute):
        if function.attr == "Console":
            return True
        function = function.value
    return isinstance(function, ast.Name) and function.id == "Console"


def check_sizes(sources: Sources) -> list[str]:
    """Lines per module, and per function with its decorators and its docstring."""
    problems: list[str] = []
    for path, text in sources.items():
        if (lines := len(text.splitlines())) > MOST_MODULE:
            problems.append(f"{path}: {lines} lines, at most {MOST_MODULE}")
        for node in ast.walk(parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if (lines := (node.end_lineno or first) - first + 1) > MOST_FUNCTION:
                    problems.append(f"{path}:{first}: {node.name} has {lines} lines, at most {MOST_FUNCTION}")
    return problems


def find_public_names(text: str) -> list[str]:
    """What an `__init__` exports: names without a leading underscore that it imports, assigns or defines."""
    names: list[str] = []
    for node in parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
    return [name for name in names if not name.startswith("_")]


def check_names(sources: Sources, layers: Mapping[str, int]) -> list[str]:
    """The public names are few, and none is called like a module: `autoslim.x` would be one or the other."""
    names = find_public_names(sources.get("__init__.py", ""))
    modules = {unit_of(module_of(path)) for path in sources} | set(layers)
    problems = [f"__init__.py: {name} is the name of a module" for name in names if name in modules]
    return problems + ([f"{len(names)} public names, at most {MOST_NAMES}"] if len(names) > MOST_NAMES else [])


def find_heavy(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport json, sys\nsys.stdout.write(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# The house ----------------------------------------------------------------------------------------------------------

LAYERS = parse_layers(DOCS.read_text())
SHELVES = parse_shelves(DOCS.read_text())
SOURCES = read_sources()


def test_layers_and_shelves_are_read_from_the_document():
    assert LAYERS["errors"] == 0 < LAYERS["widths"] < LAYERS["search"] < LAYERS["pipeline"] < LAYERS["__init__"]
    assert {"ops", "search", "costs"} <= SHELVES <= set(LAYERS)


def test_every_unit_has_a_layer():
    assert check_units(SOURCES, LAYERS) == []


def test_imports_go_down_only():
    assert check_layers(SOURCES, LAYERS) == []


def test_shelves_hold_their_members_apart():
    assert check_shelves(SOURCES, SHELVES) == []


def test_imports_stand_at_the_top_and_nothing_is_printed():
    assert check_style(SOURCES) == []


def test_no_imports_go_in_a_circle():
    assert check_circles(SOURCES) == []


def test_modules_and_functions_stay_small():
    assert check_sizes(SOURCES) == []


def test_public_names_are_few_and_no_modules():
    assert check_names(SOURCES, LAYERS) == []


def test_import_is_lean():
    """And so are a report without pictures and a network of our own."""
    code = "import autoslim, autoslim.report\nfrom autoslim.models import build_model\nbuild_model('zoo:resnet_digits')"
    assert find_heavy(code) == []


def test_a_network_of_a_library_loads_that_library_alone():
    """So the check above can fail."""
    code = "from autoslim.models import build_model\nbuild_model('torchvision:mobilenet_v2?width_mult=0.1')"
    assert {"torchvision", "timm"} & set(find_heavy(code)) == {"torchvision"}


# Each rule can fail -------------------------------------------------------------------------------------------------

TEXT = """
├── search/          STAGE 4 and SHELF  one file per method
├── trace.py         STAGE 1
└── ops/             SHELF  one file per family
L0 `errors` · L1 `widths` · L2 `ops search` · L3 `__init__ __main__`
"""
GOOD = {
    "__init__.py": "from autoslim.search import Greedy as Greedy\nfrom autoslim._version import __version__",
    "__main__.py": "import autoslim.search",
    "_version.py": "__version__ = '1'",
    "errors.py": "",
    "widths.py": "import autoslim.errors\nfrom .errors import AutoSlimError",
    "ops/__init__.py": "from autoslim.ops import conv\nfrom .linear import x",
    "ops/_base.py": "from autoslim.widths import Widths",
    "ops/conv.py": "from autoslim.ops._base import RULES",
    "ops/linear.py": "from ._base import RULES\nfrom .. import widths",
    "search/__init__.py": "import autoslim.search.greedy",
    "search/greedy.py": "class Greedy: ...",
    "search/_a.py": "",
    "search/_b.py": "if TYPE_CHECKING:\n    from autoslim.search._a import x",
}


def every_problem(changes: Sources) -> list[str]:
    layers, shelves, sources = parse_layers(TEXT), parse_shelves(TEXT), {**GOOD, **changes}
    return [
        *check_units(sources, layers),
        *check_layers(sources, layers),
        *check_circles(sources),
        *check_shelves(sources, shelves),
        *check_style(sources),
        *check_sizes(sources),
        *check_names(sources, layers),
    ]


def test_document_is_parsed():
    assert parse_layers(TEXT) == {
        "_version": 0, "errors": 0, "widths": 1, "ops": 2, "search": 2, "__init__": 3, "__main__": 3
    }  # fmt: skip
    assert parse_shelves(TEXT) == {"ops", "search"}


@pytest.mark.parametrize("line", ["L0 `errors` · L2 `widths`", "L0 errors · L1 `widths`", "L0 `errors` · L1 `errors`"])
def test_broken_layer_line_is_refused(line: str):
    with pytest.raises(AssertionError):
        parse_layers(line)


def test_good_tree_has_no_problem():
    assert every_problem({}) == []


LONG = "def long():\n" + "    x = 1\n" * 59


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("stray.py", "", "stray has no layer"),
        ("search/_a.py", "from autoslim.search._b import x", "a circle of search._a, search._b"),
        ("errors.py", "import autoslim.widths", "errors.py:1: errors imports widths, which is not on a lower layer"),
        ("widths.py", "from .ops import x", "widths.py:1: widths imports ops, which is not on a lower layer"),
        ("widths.py", "from autoslim import ops", "widths.py:1: widths imports ops, which is not on a lower layer"),
        (
            "widths.py",
            "if TYPE_CHECKING:\n    import autoslim.ops.conv",
            "widths.py:2: widths imports ops, which is not on a lower layer",
        ),
        (
            "search/greedy.py",
            "from ..ops import x",
            "search/greedy.py:1: search imports ops, which is not on a lower layer",
        ),
        ("widths.py", "from . import x", "widths.py:1: widths imports __init__, which is not on a lower layer"),
        ("widths.py", "import autoslim", "widths.py:1: widths imports __init__, which is not on a lower layer"),
        ("widths.py", "import autoslim.nothing", "widths.py:1: widths imports nothing, which is not on a lower layer"),
        (
            "__init__.py",
            "import autoslim.__main__",
            "__init__.py:1: __init__ imports __main__, which is not on a lower layer",
        ),
        ("ops/conv.py", "from autoslim.ops.linear import x", "ops/conv.py:1: imports its sibling linear"),
        ("ops/conv.py", "from . import linear", "ops/conv.py:1: imports its sibling linear"),
        ("ops/_base.py", "import autoslim.ops.conv", "ops/_base.py:1: imports its sibling conv"),
        ("ops/conv.py", "from autoslim.ops import RULES", "ops/conv.py:1: imports its sibling __init__"),
        ("ops/__init__.py", "from autoslim.ops import conv", "ops/__init__.py: does not import ops.linear"),
        ("search/uniform.py", "", "search/__init__.py: does not import search.uniform"),
        ("ops/deep/__init__.py", "", "ops/__init__.py: does not import ops.deep"),
        ("widths.py", "def f():\n    import autoslim.errors", "widths.py:2: imports errors inside a function"),
        (
            "widths.py",
            "class A:\n    async def f(self):\n        if 1:\n            from .errors import x",
            "widths.py:4: imports errors inside a function",
        ),
        ("widths.py", "from autoslim.errors import *", "widths.py:1: imports *"),
        ("widths.py", "from math import *", "widths.py:1: imports *"),
        ("widths.py", "def f():\n    print(1)", "widths.py:2: calls print"),
        ("widths.py", "x = Console(stderr=True)", "widths.py:1: makes a console of its own"),
        ("widths.py", "x = rich.console.Console()", "widths.py:1: makes a console of its own"),
        ("widths.py", "x = 1\n" * 401, "widths.py: 401 lines, at most 400"),
        ("widths.py", "@cache\n" + LONG, "widths.py:1: long has 61 lines, at most 60"),
        ("widths.py", "async " + LONG + "    x = 1\n", "widths.py:1: long has 61 lines, at most 60"),
        ("__init__.py", "from autoslim.ops import search", "__init__.py: search is the name of a module"),
        ("__init__.py", "def widths(): ...", "__init__.py: widths is the name of a module"),
        ("__init__.py", "".join(f"name{i} = 1\n" for i in range(26)), "26 public names, at most 25"),
    ],
)
def test_rule_can_fail(path: str, text: str, problem: str):
    assert problem in every_problem({path: text})


def test_sizes_at_the_limit_pass():
    assert check_sizes({"a.py": "x = 1\n" * 400, "b.py": LONG}) == []
