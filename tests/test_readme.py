"""The README's tree is the disk's, its commands exist, its example runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in every if name == language]


def tree() -> set[str]:
    """The names the README's tree lists below src/autoslim/."""
    (text,) = [block for block in blocks("") if block.startswith("src/autoslim/")]
    return {line.split()[1] for line in text.splitlines()[1:] if line.startswith(("├──", "└──"))}


def test_the_tree_is_the_disks():
    package = ROOT / "src" / "autoslim"
    private = {"__pycache__", "py.typed", "_version.py", "__main__.py"}
    disk = {p.name + "/" * p.is_dir() for p in package.iterdir() if p.name not in private}
    assert tree() == disk


def test_the_first_commands_are_the_makefiles():
    commands = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    assert commands[:3] == ["make demo", ". .venv/bin/activate", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    for command in commands:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
        elif command and not command.startswith(". "):
            known = "run|trace|profile|search|trust|report|doctor|export|pick|retrain|completion|compare"
            assert re.match(rf"(autoslim ({known})|pip install)( |$)", command), command


def test_runs_have_folders_of_their_own():
    """`make demo` has made runs/digits, and a run refuses a folder that holds another one."""
    runs = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("autoslim run ")]
    new = [line for line in runs if not re.search("--resume|--dry-run|run cifar10", line)]
    places = [re.findall(r"--out (runs/\w+)", line) for line in new]
    assert all(len(each) == 1 for each in places), new
    assert len({"runs/digits", *(each[0] for each in places)}) == len(new) + 1


def test_the_python_example_runs_and_is_short(tmp_path, monkeypatch):
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert "small" in names


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_architecture_names_every_room_on_disk():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^[├└]── (\S+)", text, re.MULTILINE))
    assert tree() <= listed
