"""Recipes by name: what they promise, and each run end to end with nothing but its sizes turned down."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from autoslim import make_cost, trace_channels
from autoslim.models import build_model
from autoslim.pipeline import run
from autoslim.progress import Shown
from autoslim.recipes import RECIPES

IMAGENET = [name for name in RECIPES if name.startswith("imagenet")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """40 JPEGs of different sizes in two classes, in train and val."""
    root, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 4)):
        for label, name in enumerate(("dark", "light")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                size = rng.integers(48, 100, 2)
                pixels = rng.integers(0, 128, (*size, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{number}.jpg")
    return root


def test_the_papers_recipes_say_what_the_paper_does():
    assert set(IMAGENET) == {f"imagenet-{name}" for name in ("mobilenet-v1", "mobilenet-v2", "mnasnet", "resnet50")}
    for name in IMAGENET:
        config = RECIPES[name]()
        assert config.search_images == 50_000
        assert config.widen == (1.0 if name == "imagenet-resnet50" else 1.5)
        assert (config.train.epochs_supernet, config.train.batch_size) == (50, 2048)
        assert (config.train.schedule, config.train.label_smoothing) == ("linear", 0.1)
        assert config.input_shape == (3, 224, 224)
    config = RECIPES["cifar10-paper"]()
    graph = trace_channels(build_model(config.model, num_classes=10), torch.zeros(1, 3, 32, 32))
    assert make_cost("macs", graph)(graph.max_widths()) == pytest.approx(88e6, rel=0.001)
    assert (config.widen, config.train.epochs_supernet, config.train.epochs_retrain) == (1.5, 50, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IMAGENET, "cifar10-paper"])
def test_a_recipe_runs_end_to_end_with_its_sizes_turned_down(name, tiny, tmp_path):
    recipe = RECIPES[name]()
    train = replace(recipe.train, epochs_supernet=1, epochs_retrain=1, batch_size=8)
    sizes = {"data": f"folder:{tiny}", "input": "3,32,32", "budget": ("macs<=90%",), "workers": 1, "train": train}
    folder = run(replace(recipe, out=str(tmp_path / "run"), **sizes), shown=Shown(quiet=True))
    summary = json.loads((folder / "summary.json").read_text())
    (found,) = summary["budgets"]
    assert found["macs"] <= 0.9 * summary["base"]["macs"]
    assert 0 <= found["accuracy"]["test"] <= 1
    assert (folder / "models" / "macs-90" / "model.safetensors").exists()
