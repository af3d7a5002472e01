"""Every task keeps its contract; segmentation and detection compute what they say, by hand and beside torchvision."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large

from autoslim.errors import ConfigError, ModelError, UnknownNameError
from autoslim.score import evaluate
from autoslim.tasks import TASKS, Fit, Metric, Numbers, find_task
from autoslim.tasks.detection import Boxes, detect, mean_average_precision
from autoslim.tasks.segmentation import Masks, mean_iou
from autoslim.testing import check_task
from autoslim.trace import trace_channels

SEGMENTATION, DETECTION = TASKS["segmentation"], TASKS["detection"]


class Error:
    """A regression, told by an error: less is better."""

    name, metric, targets, normalised = "error", Metric("mean error", False, False), Numbers(), True

    def example(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 2)), torch.rand(4, 3, 2, 2), [[1.0, 2]] * 4, 2

    def adapt(self, model):
        return model

    def check(self, output, outputs):
        if output.shape[1:] != (outputs,):
            raise ValueError(f"it is {list(output.shape)}. Expected [N, {outputs}]")

    def loss(self, output, targets, *, smoothing=0.0):
        return functional.mse_loss(output, targets)

    def teach(self, output):
        return output.detach()

    def distill(self, output, taught):
        return functional.mse_loss(output, taught)

    def judge(self, output, targets):
        gap = output.double() - targets.double()
        return gap.square().mean(1), gap.abs().mean(1)


@pytest.mark.parametrize("task", [*TASKS.values(), Error()], ids=lambda task: task.name)
def test_every_task_keeps_its_contract(task):
    check_task(task)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"teach": lambda output: output}, "what is taught is detached"),
        ({"loss": lambda output, targets, smoothing=0.0: output.flatten(1).sum(1)}, "the loss is a scalar"),
        ({"distill": lambda output, taught: output.square().mean()}, "own teaching is obeyed"),
        ({"check": lambda output, outputs: None}, "an output for fewer classes or numbers"),
        ({"adapt": lambda model: nn.Sequential(model)}, "the same tensors under the same names"),
        ({"metric": Metric("error", share=True)}, "a share is from 0 to 1"),
    ],
)
def test_the_contract_can_be_broken(broken, told):
    task = Error()
    vars(task).update(broken)
    if "metric" in broken:
        task.judge = lambda output, targets: (output.double().square().mean(1), output.double().sum(1) * 0 + 7)
    with pytest.raises(AssertionError, match=told):
        check_task(task)


def test_a_metric_of_which_less_is_better_is_turned_for_the_search_and_told_as_it_is():
    task = Error()
    network, images, raw, _ = task.example()
    targets = torch.tensor(raw)
    sample = evaluate(network, [(images, targets)], task)
    error = float((network(images).detach().double() - targets).abs().mean())
    assert sample.score.accuracy == pytest.approx(-error)
    assert (sample.accuracy <= 0).all()
    assert task.metric.say(sample.score.accuracy) == f"{error:.4g}"
    assert task.metric.tell(-0.5) == "0.5 mean error"
    assert (task.metric.say_gain(0.25), Metric("accuracy").say_gain(0.25)) == ("-0.25", "+25.0")
    assert (task.metric.key, Metric("accuracy").key, Metric("mean IoU").key) == ("score", "accuracy", "score")


# Finding one ---------------------------------------------------------------------------------------------------------


def test_a_task_is_found_by_name_or_in_a_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from autoslim.tasks import TASKS\n\ndef make():\n    return TASKS['segmentation']\n\nmade = 3\n")
    assert find_task(f"{file}:make") is SEGMENTATION
    with pytest.raises(
        ConfigError, match=r"the file has changed; expected the one with sha256 0. Put it back as it was"
    ):
        find_task(f"{file}:make", sha256="0")
    file.write_text("def make():\n    return object()\n\ndef fail():\n    raise ValueError('no luck')\n")
    for name, told in (
        (
            f"{file}:make",
            r"object has no `name`; expected a file with a function make\(\) that returns a task, with name",
        ),
        (f"{file}:fail", r"ValueError: no luck; expected a file with a function fail\(\) that returns a task. Correct"),
        (f"{file}:gone", r"has no attribute 'gone'; expected"),
        (f"{tmp_path}/none.py:make", r"there is no such file; expected .* Check the path"),
    ):
        with pytest.raises(ConfigError, match=told):
            find_task(name)
    with pytest.raises(
        UnknownNameError, match=r"Unknown task 'segmentaton'. Closest: segmentation, .* A task of your own"
    ):
        find_task("segmentaton")


# Segmentation --------------------------------------------------------------------------------------------------------


def test_mean_iou_is_that_of_a_hand_computed_table():
    said = torch.tensor([[[0, 0, 1, 1], [0, 2, 2, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]])
    masks = torch.tensor([[[0, 0, 0, 1], [0, 2, 1, 255]], [[1, 1, 0, 0], [0, 0, 0, 0]]], dtype=torch.uint8)
    logits = functional.one_hot(said, 4).permute(0, 3, 1, 2).float() * 10
    loss, facts = SEGMENTATION.judge({"out": logits}, masks)
    # class 0: 3 + 4 of (4 + 6); class 1: 1 + 2 of (3 + 4); class 2: 1 of 2; class 3 does not occur; 255 counts nowhere
    assert facts[:, 0].tolist() == [[3, 1, 1, 0], [4, 2, 0, 0]]
    assert facts[:, 1].tolist() == [[4, 3, 2, 0], [6, 4, 0, 0]]
    assert mean_iou(facts.numpy()) == pytest.approx((7 / 10 + 3 / 7 + 1 / 2) / 3)
    assert mean_iou(np.zeros((2, 2, 4))) == 0
    wrong = [2 / 7, 2 / 8]
    expected = [math.log(math.exp(10) + 3) - 10 * (1 - share) for share in wrong]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_segmentation_learns_from_labelled_pixels_alone_and_from_auxiliary_heads():
    torch.manual_seed(0)
    out, aux = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    masks = torch.randint(0, 3, (2, 4, 5), dtype=torch.uint8)
    masks[0, :2] = 255
    known = masks != 255
    flat = out.permute(0, 2, 3, 1)[known]
    own = functional.cross_entropy(flat, masks[known].long(), label_smoothing=0.1)
    torch.testing.assert_close(SEGMENTATION.loss({"out": out}, masks, smoothing=0.1), own)
    both = SEGMENTATION.loss({"out": out, "aux": aux}, masks)
    alone = [SEGMENTATION.loss({"out": each}, masks) for each in (out, aux)]
    torch.testing.assert_close(both, alone[0] + 0.3 * alone[1])
    assert SEGMENTATION.loss({"out": out}, torch.full_like(masks, 255)) == 0
    taught = SEGMENTATION.teach({"out": out})
    entropy = -(out.softmax(1) * out.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(SEGMENTATION.distill({"out": out}, taught), entropy)


def test_masks_follow_their_images():
    kind, mask = Masks(), np.zeros((8, 12), dtype=np.uint8)
    mask[2:4, 3:5] = 2
    assert (kind.stratum(mask), kind.outputs(mask)) == (2, 3)
    assert kind.stratum(np.full((2, 2), 255, np.uint8)) == 0
    for given in (Image.fromarray(mask), torch.from_numpy(mask)[None], mask.astype(np.int64), mask.tolist()):
        assert (kind.read(given, (8, 12)) == mask).all()
    fitted = kind.fit(mask, Fit((16, 24), (0, 4), (16, 16)))
    assert (fitted == mask.repeat(2, 0).repeat(2, 1)[:, 4:20]).all()
    rows, columns = np.arange(8)[None] + 0, np.arange(12)[None, ::-1]
    moved = kind.move(torch.from_numpy(mask)[None], rows, columns)
    assert torch.equal(moved[0], torch.from_numpy(mask).flip(1))


@pytest.mark.parametrize(
    ("kind", "target", "told"),
    [
        (Masks(), Image.new("RGB", (4, 4)), r"its mask is Image uint8 \[4, 4, 3\]; expected an image of Pillow's"),
        (Masks(), np.zeros((4, 4)), r"its mask is ndarray float64 \[4, 4\]; expected"),
        (Masks(), np.zeros((4, 5), np.uint8), r"its mask is \[4, 5\]; expected the image's \[4, 4\]"),
        (Masks(), np.full((4, 4), 300), "its mask has values from 300 to 300; expected 0 to 255"),
        (Boxes(), [1, 2], r'its target is list; expected a dict with "boxes" \[M, 4\] and "labels"'),
        (Boxes(), {"annotation": 1}, "its target is dict with annotation; expected a dict"),
        (Boxes(), {"boxes": [[0, 0, 2, 2]], "labels": [0]}, r"1 boxes and the labels \[0\]; expected one whole number"),
        (Boxes(), {"boxes": [[0, 0, 2, 2]], "labels": []}, r"1 boxes and the labels \[\]; expected"),
        (Boxes(), {"boxes": [[2, 0, 2, 2]], "labels": [1]}, r"a box is \[2.0, 0.0, 2.0, 2.0\] in an image of 4x4; exp"),
        (Boxes(), {"boxes": [[2, 0, 5, 2]], "labels": [1]}, "inside the image and with an area"),
        (Boxes(), {"boxes": [[4, 0, 4.5, 2]], "labels": [1]}, "inside the image and with an area"),
        (Boxes(), {"boxes": [[0, 0, 2, 2], [0, math.nan, 2, 2]], "labels": [1, 1]}, r"a box is \[0.0, nan, 2.0, 2.0\]"),
        (Numbers(), "seven", "its target is str; expected a number or a row of numbers"),
        (Numbers(), [1.0, math.nan], "expected finite numbers"),
    ],
)
def test_targets_of_another_kind_are_refused(kind, target, told):
    with pytest.raises(ValueError, match=told):
        kind.read(target, (4, 4))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0, 255], "^masks have the values 0 and 255 alone, and 255 means unknown; .* Write the foreground as 1$"),
        ([0], r"^masks have class 0 alone; expected two classes or more \(pixels of 255 are of none\)$"),
        ([3, 255], "^masks have class 3 alone; expected"),
        ([255], "^masks have no class at all; expected"),
    ],
)
def test_masks_of_a_single_class_are_refused(values, told):
    masks = [np.full((2, 2), value, np.uint8) for value in values]
    with pytest.raises(ValueError, match=told):
        Masks().join(masks)
    more = [*masks, np.array([[0, 1], [0, 0]], np.uint8)]
    assert Masks().join(more).tolist() == np.stack(more).tolist()


def test_boxes_that_reach_less_than_a_pixel_out_of_the_image_are_cut():
    given = {"boxes": [[-0.9, 2, 40.01, 20.5], [1, 2, 3, 4]], "labels": [1, 2]}
    np.testing.assert_allclose(
        Boxes().read(given, (20, 40)), [[0, 0.1, 1, 1, 1], [1 / 40, 0.1, 3 / 40, 0.2, 2]], rtol=1e-6
    )


def test_numbers_must_be_as_many_for_each_image():
    with pytest.raises(ValueError, match=r"images have \[1, 2\] numbers; expected as many for each"):
        Numbers().join([np.zeros(1, np.float32), np.zeros(2, np.float32)])


# Detection -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4, width_mult=0.35)
    model.transform.fixed_size = (96, 64)
    return model


IMAGES = torch.rand(3, 3, 50, 40, generator=torch.Generator().manual_seed(0))
RAW = [
    {"boxes": torch.tensor([[5.0, 5, 25, 30], [2, 2, 15, 15]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.tensor([[10.0, 15, 35, 45]]), "labels": torch.tensor([3])},
    {"boxes": torch.tensor([[0.0, 0, 40, 50], [8, 9, 12, 14], [1, 30, 20, 48]]), "labels": torch.tensor([3, 3, 1])},
]


def read_boxes(raw=RAW, size=(50, 40)):
    kind = Boxes()
    return kind.join([kind.read(each, size) for each in raw])


def test_loss_and_detections_are_torchvisions_own(detector):
    raw_network = DETECTION.adapt(detector)
    theirs = sum(detector.train()(list(IMAGES), RAW).values())
    ours = DETECTION.loss(raw_network.train()(IMAGES), read_boxes())
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        found = detect(raw_network.eval()(IMAGES))
        wanted = detector.eval()(list(IMAGES))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one[:, :4] * torch.tensor([40.0, 50, 40, 50]), other["boxes"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(one[:, 4], other["scores"])
        assert torch.equal(one[:, 5].long(), other["labels"])


def test_ssd300_is_taken_too():
    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4)
    network = DETECTION.adapt(model)
    graph = trace_channels(network, torch.zeros(1, 3, 50, 40))
    assert graph.notes == ()
    assert sum(group.frozen is None for group in graph.groups) > 20
    theirs = sum(model.train()(list(IMAGES[:1]), RAW[:1]).values())
    torch.testing.assert_close(DETECTION.loss(network.train()(IMAGES[:1]), read_boxes(RAW[:1])), theirs)


def test_default_boxes_are_as_precise_as_the_images(detector):
    network = DETECTION.adapt(detector).eval()
    with torch.no_grad():
        exact = network(IMAGES)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network(IMAGES)
    assert mixed["cls_logits"].dtype == torch.bfloat16
    assert torch.equal(mixed["anchors"], exact["anchors"])
    assert DETECTION.loss(mixed, read_boxes()) == pytest.approx(float(DETECTION.loss(exact, read_boxes())), rel=0.02)


def test_map_is_torchmetrics_own(detector):
    network = DETECTION.adapt(detector).eval()
    boxes = read_boxes()
    with torch.no_grad():
        output = network(IMAGES)
        _, facts = DETECTION.judge(output, boxes)
    # the first image is answered rightly, the second with another class, the third as the network says
    facts[:2, :600] = 0
    facts[0, :12] = torch.tensor([*boxes[0, 0, :4], 0.9, 1, *boxes[0, 1, :4], 0.8, 2])
    facts[1, :6] = torch.tensor([*boxes[1, 0, :4], 0.9, 2])
    metric = MeanAveragePrecision()
    table = facts[:, :600].reshape(3, 100, 6)
    for found, there, raw in zip(table, boxes, RAW, strict=True):
        found = found[found[:, 5] > 0]
        scale = torch.tensor([40.0, 50, 40, 50])
        metric.update(
            [{"boxes": found[:, :4] * scale, "scores": found[:, 4], "labels": found[:, 5].long()}],
            [{"boxes": there[: len(raw["labels"]), :4] * scale, "labels": raw["labels"]}],
        )
    told = float(metric.compute()["map"])
    assert 0 < told < 1
    assert mean_average_precision(facts.numpy()) == pytest.approx(told)
    assert mean_average_precision(np.zeros((2, 605), np.float32)) == 0


def test_the_widest_teaches_classes_everywhere_and_offsets_where_it_sees_something(detector):
    network = DETECTION.adapt(detector).eval()
    with torch.no_grad():
        output = network(IMAGES)
        taught = DETECTION.teach(output)
        assert DETECTION.distill(output, taught) == pytest.approx(0, abs=1e-5)
        moved = {**output, "bbox_regression": output["bbox_regression"] + 2}
        seen = 1 - taught[0][..., 0]
        expected = (seen * 4 * 1.5).sum() / seen.sum()  # smooth L1 of 2 is 1.5, for each of four offsets
        assert DETECTION.distill(moved, taught) == pytest.approx(float(expected), rel=1e-4)


def test_boxes_follow_their_images_and_few_left_are_dropped():
    kind = Boxes()
    target = kind.read({"boxes": [[0, 0, 10, 20], [30, 0, 40, 20]], "labels": [1, 2], "iscrowd": [0, 0]}, (20, 40))
    assert (kind.stratum(target), kind.outputs(target)) == (1, 3)
    cut = kind.fit(target, Fit((20, 40), (0, 8), (20, 20)))  # columns 8 to 28 of 40 are kept
    assert cut.shape == (0, 5)
    cut = kind.fit(target, Fit((20, 40), (0, 5), (20, 20)))
    np.testing.assert_allclose(cut, [[0, 0, 0.25, 1, 1]], atol=1e-6)
    joined = kind.join([target, target[:1]])
    columns = np.stack([np.arange(20)[::-1], np.arange(20)])
    moved = kind.move(joined, np.tile(np.arange(20), (2, 1)), columns)
    np.testing.assert_allclose(moved[0], [[0.75, 0, 1, 1, 1], [0, 0, 0.25, 1, 2]], atol=1e-6)
    assert torch.equal(moved[1], joined[1])
    crowd = kind.read({"boxes": [[0, 0, 10, 20], [30, 0, 40, 20]], "labels": [1, 2], "iscrowd": [1, 0]}, (20, 40))
    assert crowd[:, 4].tolist() == [2]
    assert kind.read({"boxes": np.zeros((0, 4)), "labels": []}, (20, 40)).shape == (0, 5)


def test_other_detectors_and_missing_packages_are_refused(monkeypatch):
    with pytest.raises(ModelError, match=r"The task detection can't train Linear; expected an SSD of torchvision's"):
        DETECTION.adapt(nn.Linear(2, 2))
    monkeypatch.setattr("autoslim.tasks.detection.find_spec", lambda name: None if name == "pycocotools" else object())
    with pytest.raises(
        ConfigError, match=r"needs pycocotools, which is not installed.* with pip install .*\"pycocotools>="
    ):
        DETECTION.adapt(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("task", "output", "told"),
    [
        ("classification", torch.zeros(2, 3), r"it is \[2, 3\]. Expected logits \[N, 4\]"),
        ("segmentation", {"out": torch.zeros(2, 4)}, r"it is \[2, 4\]. Expected logits \[N, 4, H, W\]"),
        ("segmentation", {}, r"it is no tensor. Expected logits"),
        (
            "detection",
            {"cls_logits": torch.zeros(2, 9, 3)},
            "it tells 3 classes apart. Expected 4, the background among",
        ),
    ],
)
def test_an_output_for_other_classes_is_refused(task, output, told):
    with pytest.raises(ValueError, match=told):
        TASKS[task].check(output, 4)


@pytest.mark.parametrize(
    ("task", "make"),
    [
        ("classification", lambda classes: torch.zeros(2, classes)),
        ("segmentation", lambda classes: {"out": torch.zeros(2, classes, 8, 8), "aux": torch.zeros(2, 21, 8, 8)}),
        ("detection", lambda classes: {"cls_logits": torch.zeros(2, 9, classes)}),
    ],
)
def test_outputs_that_no_target_asks_for_are_told(task, make):
    assert TASKS[task].check(make(4), 4) is None
    told = "it has outputs for 9 classes, and there are 4: the rest are never right, and cost MACs in the last layer"
    assert TASKS[task].check(make(9), 4) == told
