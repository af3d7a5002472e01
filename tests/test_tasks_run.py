"""`autoslim run` end to end with segmentation and detection, at toy size; what it leaves and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection.ssd import SSD

import autoslim
from autoslim.cli import main
from autoslim.compare import CompareConfig
from autoslim.data import load_data
from autoslim.data.shapes import DrawnShapes
from autoslim.errors import ConfigError, DataError, ModelError, RunFolderError
from autoslim.hub import write_card
from autoslim.pipeline import RunConfig, read_config, resume, run
from autoslim.progress import Shown
from autoslim.report import write_comparison
from autoslim.search import Greedy
from autoslim.tasks import TASKS
from autoslim.tasks.detection import detect
from autoslim.tasks.segmentation import mean_iou
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)
TRAIN = TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=8, augment="flip", lr=0.01)
SMALL = """
from collections import OrderedDict

from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.segmentation import LRASPP


def stage(before, after, kernel=3, stride=2):
    layers = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    return nn.Sequential(*layers)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.low = stage(3, 8), nn.Sequential(stage(8, 16, stride=1), stage(16, 16))
        self.high = nn.Sequential(stage(16, 32), stage(32, 32, 1, 1))

    def forward(self, x):
        low = self.low(self.stem(x))
        return OrderedDict(low=low, high=self.high(low))


def detector(num_classes):
    kept = {"score_thresh": 0.001, "nms_thresh": 0.55, "topk_candidates": 300, "detections_per_img": 300}  # ssdlite's
    return SSD(Backbone(), DefaultBoxGenerator([[2], [2]]), (64, 64), num_classes, **kept)


def masks(num_classes):
    return LRASPP(Backbone(), 16, 32, num_classes, 16)
"""


def arguments(task, model, data, out, share=70):
    given = {"task": task, "model": model, "data": data, "out": out, "budget": f"macs<={share}%", "tracker": "none"}
    given |= {"epochs-supernet": 1, "epochs-retrain": 1, "batch-size": 8, "augment": "flip", "lr": 0.01, "workers": 0}
    return ["run", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def check_run(folder, task, metric, share=70):
    """The contract of a summary that tells another metric; returns the row of its budget."""
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["_version"], summary["task"]) == (2, task)
    assert summary["metric"] == {"name": metric, "higher": True, "share": True}
    (row,) = summary["budgets"]
    scores = [summary["base"]["score"]["test"], *row["score"].values(), row["uniform"]["score"]["test"]]
    assert all(0 <= score <= 1 for score in scores)
    assert row["macs"] <= share / 100 * summary["base"]["macs"]
    metrics = json.loads((folder / row["folder"] / "metrics.json").read_text())
    assert (metrics["test_score"], metrics["metric"]) == (row["score"]["test"], metric)
    config = json.loads((folder / row["folder"] / "config.json").read_text())
    assert config["task"] == task
    assert config["classes"] == ["background", "disc", "square", "triangle"]
    page = (folder / "report.html").read_text()
    assert f"test {metric}" in page
    assert "accuracy" not in page.split("<script")[0]
    return row


@pytest.fixture(scope="module")
def models_file(tmp_path_factory):
    """A detector and a segmentation network of torchvision's classes, on a small backbone."""
    file = tmp_path_factory.mktemp("models") / "small.py"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, models_file):
    out = tmp_path_factory.mktemp("runs") / "segmented"
    assert main(arguments("segmentation", f"{models_file}:masks", "shapes-masks:40,32", out)) == 0
    return out


@pytest.fixture(scope="module")
def detected(tmp_path_factory, models_file):
    out = tmp_path_factory.mktemp("runs") / "detected"
    assert main(arguments("detection", f"{models_file}:detector", "shapes-boxes:40,48", out)) == 0
    return out


def test_a_segmentation_network_is_slimmed_from_end_to_end(segmented):
    row = check_run(segmented, "segmentation", "mean IoU")
    model = autoslim.load(segmented / row["folder"])
    assert type(model).__name__ == "LRASPP"
    config = json.loads((segmented / row["folder"] / "config.json").read_text())
    data = load_data("shapes-masks:40,32", targets=TASKS["segmentation"].targets)
    mean, std = (torch.tensor(config["normalisation"][name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        said = model((data.test.images / 255 - mean) / std)["out"].argmax(1)
    masks = data.test.told.values.long()
    counts = [[[((said == c) & (masks == c)).sum(), ((said == c) | (masks == c)).sum()] for c in range(4)]]
    assert mean_iou(np.array(counts).transpose(0, 2, 1)) == pytest.approx(row["score"]["test"], abs=1e-3)


def test_a_detector_is_slimmed_from_end_to_end_and_stays_torchvisions(detected):
    row = check_run(detected, "detection", "mAP")
    model = autoslim.load(detected / row["folder"])
    assert isinstance(model, SSD)
    config = json.loads((detected / row["folder"] / "config.json").read_text())
    assert config["normalisation"] == {"mean": [0.0] * 3, "std": [1.0] * 3}
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        found = model(list(images))
        raw = detect(TASKS["detection"].adapt(model)(images))
    for one, other in zip(found, raw, strict=True):
        torch.testing.assert_close(one["boxes"] / 48, other[:, :4], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["segmented", "detected"])
def test_a_run_that_was_stopped_resumes_to_the_same_result(name, request):
    folder = request.getfixturevalue(name)
    before = json.loads((folder / "summary.json").read_text())
    search = (folder / "search.jsonl").read_text()
    assert search.count("\n") > 1
    for gone in ("summary.json", "search.jsonl"):
        (folder / gone).unlink()
    (folder / "search.jsonl").write_text(search.splitlines(keepends=True)[0])
    resume(folder, shown=QUIET)
    after = json.loads((folder / "summary.json").read_text())
    assert (folder / "search.jsonl").read_text() == search
    assert {**after, "seconds": None} == {**before, "seconds": None}


def test_a_later_search_by_a_metric_of_all_images_is_refused(segmented, capsys):
    assert main(["search", str(segmented), "--budget", "macs<=90%", "--metric", "accuracy"]) == 2
    assert "no mean over images" in " ".join(capsys.readouterr().err.split())


def test_later_commands_tell_the_tasks_own_metric(segmented, capsys, tmp_path):
    assert main(["pick", str(segmented), "--budget", "macs<=90%", "--extract", str(tmp_path / "picked")]) == 0
    assert "predicted: mean IoU " in capsys.readouterr().out
    metrics = json.loads((tmp_path / "picked" / "metrics.json").read_text())
    assert 0 <= metrics["search_score"] <= 1
    assert main(["search", str(segmented), "--method", "uniform"]) == 0
    assert "search mean IoU" in " ".join(capsys.readouterr().out.split())
    place = segmented / "models" / "macs-70"
    card = write_card(place, "me/slim")
    assert "| test mean IoU | " in card
    assert "image-segmentation" in card


def test_heads_are_exported_as_they_are_and_int8_detectors_are_refused(detected, segmented, tmp_path, capsys):
    file = tmp_path / "detector.pt2"
    args = ["export", str(detected), "--network", "macs-70"]
    assert main([*args, "--to", "torch-export", "--out", str(file)]) == 0
    assert "differs by at most" in " ".join(capsys.readouterr().out.split())
    assert main([*args, "--int8"]) == 2
    assert "--int8 of a network for detection" in capsys.readouterr().err
    file = tmp_path / "masks.pt2"
    assert main(["export", str(segmented), "--network", "macs-70", "--to", "torch-export", "--out", str(file)]) == 0


def test_runs_of_different_tasks_stand_on_one_page(segmented, detected, tmp_path):
    page = write_comparison([segmented, detected], tmp_path / "both.html").read_text()
    assert "Score against cost" in page
    assert "test score" in page


@pytest.mark.slow
def test_lraspp_is_slimmed_from_end_to_end(tmp_path):
    model = "torchvision:lraspp_mobilenet_v3_large"
    assert main(arguments("segmentation", model, "shapes-masks:40,32", tmp_path / "o", share=85)) == 0
    check_run(tmp_path / "o", "segmentation", "mean IoU", share=85)


@pytest.mark.slow
def test_deeplab_is_slimmed_from_end_to_end(tmp_path):
    model = "torchvision:deeplabv3_mobilenet_v3_large?aux_loss=True"
    assert main(arguments("segmentation", model, "shapes-masks:40,32", tmp_path / "o", share=85)) == 0
    check_run(tmp_path / "o", "segmentation", "mean IoU", share=85)


@pytest.mark.slow
def test_ssdlite_is_slimmed_at_its_own_size_by_its_name(tmp_path):
    model = "torchvision:ssdlite320_mobilenet_v3_large"
    words = arguments("detection", model, "shapes-boxes:24,64", tmp_path / "o", share=85)
    assert main([*words, "--method", "uniform"]) == 0
    check_run(tmp_path / "o", "detection", "mAP", share=85)


# Data of one's own ---------------------------------------------------------------------------------------------------

FILE = """
from autoslim.data.shapes import DrawnShapes

class Half:
    def __init__(self, first):
        self.drawn, self.first = DrawnShapes(40, 24), first

    def __len__(self):
        return 20

    def __getitem__(self, number):
        return self.drawn[self.first + number]

def both():
    return Half(0), Half(20)
"""

NETWORK = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, num_classes, 1),
    )
"""


def small(tmp_path, **changes):
    (tmp_path / "net.py").write_text(NETWORK)
    config = RunConfig(
        model=f"{tmp_path}/net.py:make",
        data="shapes-masks:40,24",
        task="segmentation",
        budget=("macs<=60%",),
        out=str(tmp_path / "o"),
        baselines="none",
        tracker="none",
        train=TRAIN,
    )
    return replace(config, **changes)


def test_datasets_come_from_python_and_from_a_file_alike(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    config = small(tmp_path)
    named = run(replace(config, data=f"{tmp_path}/mine.py:both", out=str(tmp_path / "a")), shown=QUIET)
    drawn = DrawnShapes(40, 24)
    given = tuple(torch.utils.data.Subset(drawn, range(first, first + 20)) for first in (0, 20))
    own = run(replace(config, out=str(tmp_path / "b")), data=given, shown=QUIET)
    budgets = [json.loads((folder / "summary.json").read_text())["budgets"] for folder in (named, own)]
    assert budgets[0] == budgets[1]
    other = tuple(torch.utils.data.Subset(drawn, range(first, first + 20)) for first in (20, 0))
    (own / "summary.json").unlink()
    with pytest.raises(RunFolderError, match=r"The images are not those that .* was started with"):
        resume(own, data=other, shown=QUIET)


def test_finalists_are_chosen_by_the_loss_where_the_metric_is_no_mean(tmp_path):
    lines: list[str] = []

    class Told(Shown):
        def line(self, text: str) -> None:
            lines.append(text)

    folder = run(small(tmp_path, finalists=2), shown=Told(quiet=True))
    (choice,) = [line for line in lines if line.startswith("finalists macs<=60%")]
    assert "loss " in choice
    assert "on the same images, standard error" in choice
    kept = [json.loads(line) for line in (folder / "finalists.jsonl").read_text().splitlines()]
    trained = [line for line in kept if line["_type"] == "Finalist"]
    assert all(line["accuracy"] == line["whole"] for line in trained)
    assert all(np.mean(line["metrics"]) == pytest.approx(-line["loss"]) for line in trained)
    assert read_config(folder).task == "segmentation"


# Refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        (
            {"train": replace(TRAIN, augment="imagenet")},
            ConfigError,
            "augment is 'imagenet', which the targets of the ta",
        ),
        (
            {"train": replace(TRAIN, mixup=0.2)},
            ConfigError,
            "mixup is 0.2, cutmix 0.0; expected 0 with the task segmen",
        ),
        ({"search": Greedy(metric="accuracy")}, ConfigError, "mean IoU is no mean over images.*expected metric='loss'"),
        ({"finalists": 13}, ConfigError, r"RunConfig.finalists is 13; expected 0 \(off\), or from 2"),
        (
            {"data": "digits"},
            DataError,
            "digits: it has labels for each image, not the targets of this task; expected one",
        ),
        ({"data": "shapes-boxes:40,24"}, DataError, "item 0: its mask is dict object .*expected an image of Pillow's"),
        (
            {"data": "shapes-masks:1"},
            DataError,
            "shapes-masks:1: expected a number of images from 3 and a side from 16",
        ),
        ({"task": "detection", "data": "shapes-boxes:40,24"}, ModelError, "can't train Sequential; expected an SSD"),
        ({"task": "classification"}, DataError, "it has targets for each image, not the labels of this task"),
        ({"model": "zoo:resnet_digits?width=8"}, ModelError, r"it is \[2, 4\]. Expected logits \[N, 4, H, W\]"),
    ],
)
def test_what_does_not_go_with_a_task_is_refused_before_anything_is_written(tmp_path, changes, kind, told):
    with pytest.raises(kind, match=told):
        run(small(tmp_path, **changes), shown=QUIET)
    assert not (tmp_path / "o").exists()


def test_rewriting_and_comparing_are_refused_where_they_do_not_go_with_a_task(models_file, tmp_path):
    detector = {"model": f"{models_file}:detector", "task": "detection", "data": "shapes-boxes:40,48"}
    with pytest.raises(ConfigError, match=r"RunConfig.rewrite was given with the task detection.* Drop --rewrite"):
        run(small(tmp_path, rewrite=True, **detector), shown=QUIET)
    with pytest.raises(ConfigError, match=r"the run's task is 'segmentation'; expected 'classification'"):
        CompareConfig(run=small(tmp_path), methods=("uniform",))


def test_a_run_whose_task_has_changed_is_not_resumed(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from autoslim.tasks.segmentation import Segmentation as make\n")
    folder = run(small(tmp_path, task=f"{own}:make", retrain="none"), shown=QUIET)
    (folder / "summary.json").unlink()
    own.write_text("from autoslim.tasks.segmentation import Segmentation as make  # another loss, say\n")
    with pytest.raises(RunFolderError, match=r"The task is not the one .* was started with"):
        resume(folder, shown=QUIET)
