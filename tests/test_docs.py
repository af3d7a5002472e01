"""The documentation builds strictly, its links lead somewhere, its commands exist, and pages that come show up."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from autoslim import build_model
from autoslim.cli import _COMMANDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def load_hooks(name: str):
    spec = importlib.util.spec_from_file_location(f"docs{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(HTMLParser):
    """The links of a page, what in it can be linked to, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {found["id"]} if found.get("id") else set()
        for name in ("href", "src"):
            if found.get(name):
                self.links.append(found[name])

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def broken_links(site: Path) -> list[str]:
    """Links within the site that lead nowhere, and whatever a page would load from elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    broken: list[str] = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(target)
            if not target.exists() or (parts.fragment and known and unquote(parts.fragment) not in known.places):
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def left_markers(site: Path) -> list[str]:
    """Pages that show the line which should have taken a file in; highlighting cuts it into many elements."""
    pages = {path: "".join(Page(path.read_text(encoding="utf-8")).words) for path in site.rglob("*.html")}
    return [path.relative_to(site).as_posix() for path, text in pages.items() if re.search(r"--\s*8\s*<", text)]


@pytest.mark.docs
def test_the_site_builds_strictly_and_no_link_is_broken(tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.parent.relative_to(site).as_posix().lstrip(".") for path in site.rglob("index.html")}
    assert {re.sub(r"(^|/)(index|README)$", r"\1", page[:-3]).rstrip("/") for page in PAGES} == built
    assert broken_links(site) == []
    assert left_markers(site) == []
    tutorial = "".join(Page((site / "tutorial" / "index.html").read_text(encoding="utf-8")).words)
    assert "class Net(nn.Module):" in tutorial  # what it takes in from examples/
    names = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for name in ("trace_channels", "export.export_network", "pick.pick_network", "report.write_png"):
        assert f'id="autoslim.{name}"' in names
    assert "&gt;&gt;&gt;" in names  # doctests, as code and not as quotations
    assert "<blockquote>" not in names
    commands = (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert all(f"autoslim {name}" in commands for name in _COMMANDS)


def test_the_reference_names_every_file_of_a_run(finished):
    told = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    assert [path.name for path in finished.iterdir() if f"`{path.name}" not in told] == []


def test_the_link_check_can_fail(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there"><a href="#gone"><a href="c.html"><a href=".">')
    (tmp_path / "b.html").write_text('<p id="there">')
    assert broken_links(tmp_path) == ["a.html: #gone", "a.html: c.html", "a.html: ."]


def test_the_marker_check_can_fail(tmp_path):
    (tmp_path / "a.html").write_text('<b>--</b><i>8</i> <b>&lt;</b> <b>--</b>"x.py"')
    (tmp_path / "b.html").write_text("<p>--8 columns</p>")
    assert left_markers(tmp_path) == ["a.html"]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_takes_in_exist(page):
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if re.match(r"\s*[-;]*--\s*8\s*<", line):
            found = re.fullmatch(r'--8<-- "([^"]+)"', line)
            assert found, line
            assert (ROOT / found[1]).is_file(), line


def test_pages_that_come_are_in_the_menu(tmp_path):
    for page in [
        *(page for page in PAGES if "methods" not in page),
        "6-deploy.md",
        "5-evidence.md",
        "data.md",
        "methods/thinet.md",
        "methods/amc.md",
    ]:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).touch()
    menu = load_hooks("_hooks").menu(tmp_path)
    assert menu[:2] == ["index.md", "tutorial.md"]
    assert [page[0] for page in menu[2]["Stages"]] == list("123456")
    assert "data.md" in menu
    assert {"Methods": ["methods/amc.md", "methods/thinet.md"]} in menu
    assert menu[-1] == "log.md"


def test_files_that_are_no_pages_are_named():
    name = load_hooks("_hooks").name_files
    assert name("[Rules](../SECURITY.md#a), [b](../log.md)", DOCS) == "Rules (`SECURITY.md`), [b](../log.md)"
    assert name("[a](../../examples/own_loop.py)", DOCS / "how-to") == "a (`examples/own_loop.py`)"
    assert name("[a](../gone.md) [b](../log.md)", DOCS / "how-to") == "[a](../gone.md) [b](../log.md)"


def test_lists_and_doctests_are_parted():
    part, fence = load_hooks("_hooks").part_lists, load_hooks("_doctests").fence
    assert part("so:\n1. a\n   b\n2. c\n\n- d\n- e") == "so:\n\n1. a\n   b\n2. c\n\n- d\n- e"
    assert part("```\nso:\n- a\n```") == "```\nso:\n- a\n```"
    assert fence("A:\n\n>>> 1\n1\n\nB") == "A:\n\n```pycon\n>>> 1\n1\n```\n\nB\n"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_pages_exist(page):
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.M)
    for line in "".join(blocks).splitlines():
        if found := re.match(r"(?:.* )?autoslim ([a-z]\w*)", line):
            assert found[1] in _COMMANDS, line


@pytest.mark.parametrize("page", ["2-supernet.md"])
def test_the_first_example_of_a_page_runs(page):
    (code, *_) = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.M)
    exec(compile(code, page, "exec"), {})


def test_the_tutorials_model_is_one(tmp_path):
    codes = re.findall(r"^```python\n(.*?)^```$", (DOCS / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL | re.M)
    (code,) = [code for code in codes if "def make(" in code]
    (tmp_path / "mymodel.py").write_text(code, encoding="utf-8")
    assert build_model(f"{tmp_path / 'mymodel.py'}:make", num_classes=3)[-1].out_features == 3
