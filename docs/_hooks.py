"""What the pages of this site take from the repository: the menu from the files that are there, the options of every
command from the golden files, the public names from the modules' `__init__.py`. So a page, a command or a name that is
added shows up by itself."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIRST, LAST = ("index", "tutorial"), ("scaling", "glossary", "architecture", "log")
MODULES = (
    "", "trace", "train", "score", "search", "costs", "runtimes", "data", "tasks", "models", "pipeline", "saved",
    "export", "pick", "retrain", "trust", "report", "testing",
)  # fmt: skip


def on_config(config):
    config.nav = menu(Path(config.docs_dir))
    return config


def menu(docs: Path) -> list:
    """The stages by their numbers, then single pages, then one section per folder; each page under its own title."""

    def pages(pattern: str) -> list[str]:
        return sorted(path.relative_to(docs).as_posix() for path in docs.glob(pattern))

    single = {Path(page).stem: page for page in pages("*.md")}
    stages = [page for name, page in single.items() if name[0].isdigit()]
    rest = [page for name, page in single.items() if not name[0].isdigit() and name not in FIRST + LAST]
    folders = sorted({Path(page).parent.as_posix() for page in pages("*/**/*.md")})
    sections = [{folder.replace("-", " ").capitalize(): pages(f"{folder}/*.md")} for folder in folders]
    return [single[name] for name in FIRST] + [{"Stages": stages}, *rest, *sections] + [single[name] for name in LAST]


def on_page_markdown(markdown, page, **_):
    if "{{ commands }}" in markdown:
        markdown = markdown.replace("{{ commands }}", commands())
    if "{{ names }}" in markdown:
        markdown = markdown.replace("{{ names }}", names())
    return part_lists(name_files(markdown, Path(page.file.abs_src_path).parent))


def name_files(markdown: str, folder: Path) -> str:
    """Links to files of the repository that are no pages become the files' names; one that is missing stays broken."""

    def replace(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        outside = target.exists() and target.is_relative_to(ROOT) and not target.is_relative_to(ROOT / "docs")
        return f"{link[1]} (`{target.relative_to(ROOT).as_posix()}`)" if outside else link[0]

    return re.sub(r"\[([^\]]*)\]\((\.\./[^)#]+)(?:#[^)]*)?\)", replace, markdown)


def commands() -> str:
    """The help of each command, as the tests hold it."""
    files = sorted((ROOT / "tests" / "golden").glob("help_*.txt"))
    texts = [(path.stem.removeprefix("help_"), path.read_text(encoding="utf-8")) for path in files]
    return "\n".join(f"## autoslim {name.replace('_', ' ')}\n\n```text\n{text}```\n" for name, text in texts)


def names() -> str:
    """Every public name of the modules that a script may need."""
    parts = []
    for module in MODULES:
        place = ROOT / "src" / "autoslim" / module
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        dotted = f"autoslim.{module}" if module else "autoslim"
        body = ast.parse(path.read_text(encoding="utf-8")).body
        found = [item.name for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef) and item.name[0] != "_"]
        if path.name == "__init__.py":
            exported = [alias for item in body if isinstance(item, ast.ImportFrom) for alias in item.names]
            found += [alias.name for alias in exported if alias.asname == alias.name]
        shown = [name for name in dict.fromkeys(found) if not name[0].islower() or not is_module(place, name)]
        parts.append(f"## {dotted}\n\n" + "\n\n".join(f"::: {dotted}.{name}" for name in shown if name[0] != "_"))
    return "\n\n".join(parts)


def is_module(place: Path, name: str) -> bool:
    return place.with_suffix("").joinpath(f"{name}.py").exists() or (place / name).is_dir()


def part_lists(markdown: str) -> str:
    """A list may follow its sentence directly, as on GitHub: a blank line is put between them."""
    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        item = re.match(r"(-|\d+\.) ", line)
        before = lines[-1] if lines else ""
        if item and not fenced and before.strip() and not re.match(r"\s|(-|\d+\.) ", before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
