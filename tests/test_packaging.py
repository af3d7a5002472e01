"""What a user installs: wheel and sdist build, and the wheel does its work in an environment that has nothing of ours.

The heavy packages are not downloaded anew: the new environment finds those that are here, after its own.
"""

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST = 1.2  # `import autoslim` takes at most so many times what `import torch` takes
ROUNDS = 9

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def programs(built, tmp_path_factory):
    """The folder of programs of an environment with the wheel in it."""
    place = tmp_path_factory.mktemp("env")
    call(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    call(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", built[0], cwd=place)
    packages = Path(
        call(programs / "python", "-c", "import sysconfig as s; print(s.get_path('purelib'))", cwd=place).strip()
    )
    # A line in a .pth file is searched last, and its own .pth files (an editable install of ours) are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_the_wheel_has_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    ours = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name and "egg-info" not in name}
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert "autoslim/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_is_whole_and_small(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/autoslim/__init__.py", "tests/test_packaging.py"} <= names
    assert not any(name.startswith(("benchmarks", "runs", ".")) for name in names - {".gitignore"})
    assert built[1].stat().st_size < 2 << 20


def test_the_installed_wheel_works(programs, tmp_path):
    where = call(programs / "python", "-c", "import autoslim; print(autoslim.__file__)", cwd=tmp_path)
    assert where.startswith(str(programs.parent))
    autoslim = programs / "autoslim"
    assert "autoslim run" in call(autoslim, "--help", cwd=tmp_path)
    graph = json.loads(call(autoslim, "trace", "zoo:resnet_digits", "--input", "1,8,8", "--json", cwd=tmp_path))
    assert len(graph["groups"]) == 7
    quick = ["--epochs-supernet", "1", "--epochs-retrain", "1", "--baselines", "none", "--search-images", "50"]
    call(autoslim, "run", "digits", "--budget", "macs<=50%", "--out", "out", *quick, cwd=tmp_path)
    assert (tmp_path / "out" / "report.html").exists()
    code = "import autoslim; print(type(autoslim.load('out/models/macs-50')).__name__)"
    assert call(programs / "python", "-c", code, cwd=tmp_path).strip() == "ResNetDigits"


def test_import_takes_little_more_than_that_of_torch(programs, tmp_path):
    """As a user has it: installed from the wheel, which leaves its bytecode."""
    code = "import time, sys, {}; sys.stdout.write(str(time.process_time()))"
    times: dict[str, list[float]] = {"torch": [], "autoslim": []}
    for _ in range(ROUNDS):  # in turns, so that what slows the machine slows both
        for name, told in times.items():
            told.append(float(call(programs / "python", "-c", code.format(name), cwd=tmp_path)))
    torch, autoslim = (statistics.median(told) for told in times.values())
    assert autoslim <= MOST * torch, f"{autoslim:.2f} s against {torch:.2f} s"
