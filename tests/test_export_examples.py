"""The examples that train a slim network further run, and make it no worse."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoslim import load
from autoslim.pipeline import RunConfig, run
from autoslim.progress import Shown
from autoslim.train import TrainConfig

pytestmark = pytest.mark.slow
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("finetune_*.py"))
CONFIG = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("macs<=50%",),
    search_images=64,
    baselines="none",
    train=TrainConfig(epochs_supernet=1, epochs_retrain=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("examples") / "digits"
    return run(replace(CONFIG, out=str(place)), shown=Shown(quiet=True)) / "models" / "macs-50"


def test_there_are_three():
    assert [path.stem for path in EXAMPLES] == ["finetune_lightning", "finetune_plain", "finetune_timm"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_trains_the_network_further(example: Path, folder: Path, tmp_path: Path):
    out = tmp_path / "finetuned.pt"
    done = subprocess.run(
        [sys.executable, str(example), str(folder), "--epochs", "3", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    before, after = (float(share) for share in re.findall(r"^(?:before|after): +([\d.]+)%", done.stdout, re.MULTILINE))
    assert len(re.findall(r"^epoch \d: loss", done.stdout, re.MULTILINE)) == 3
    assert after > before
    model = load(folder)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(torch.load(out, weights_only=True))  # the same slim layers
    assert any(not torch.equal(tensor, old[name]) for name, tensor in model.state_dict().items())
    assert len(example.read_text().splitlines()) <= 80
