"""Targets on their way: drawn shapes, strata, batches in memory and decoded by workers, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from autoslim.data import Encoded, Split, hold_out, load_data, load_datasets, make_loader
from autoslim.data._augment import shift_places
from autoslim.data._told import merge_strata
from autoslim.data.shapes import CLASSES, DrawnShapes
from autoslim.errors import DataError
from autoslim.tasks import TASKS, Numbers

MASKS, BOXES = TASKS["segmentation"].targets, TASKS["detection"].targets


@pytest.mark.parametrize("number", range(6))
def test_drawn_shapes_are_the_same_everywhere_and_masks_fit_boxes(number):
    image, mask = DrawnShapes(9, 48)[number]
    again, target = DrawnShapes(7, 48, boxes=True)[number]
    assert image.tobytes() == again.tobytes()
    assert image.size == mask.size == (48, 48)
    pixels = np.asarray(mask)
    assert 1 <= len(target["labels"]) <= 3
    inside = np.zeros_like(pixels, dtype=bool)
    for (left, top, right, bottom), label in zip(target["boxes"].astype(int), target["labels"], strict=True):
        part = pixels[top:bottom, left:right]
        assert set(np.unique(part)) <= {0, label}
        assert (part == label).any(1).sum() >= bottom - top - 1  # a polygon may miss a line
        inside[top:bottom, left:right] = True
    assert not pixels[~inside].any()
    with pytest.raises(IndexError):
        DrawnShapes(number)[number]


@pytest.mark.parametrize(("name", "kind"), [("masks", MASKS), ("boxes", BOXES)])
def test_shapes_are_loaded_and_held_out_in_proportion(name, kind):
    data = load_data(f"shapes-{name}:100,32", targets=kind)
    assert (data.classes, data.input_shape, len(data.train), len(data.test)) == (CLASSES, (3, 32, 32), 80, 20)
    train, search = hold_out(data.train, seed=0)
    assert (len(train), len(search)) == (72, 8)
    whole, part = (torch.bincount(split.labels, minlength=4)[1:] / len(split) for split in (data.train, search))
    assert (whole - part).abs().max() < 0.13
    assert torch.equal(data.train.told.take([3]).values[0], data.train.told.values[3])
    rows = data.train.rows
    image, target = DrawnShapes(100, 32, boxes=name == "boxes")[int(rows[5])]
    assert torch.equal(data.train.images[5], torch.from_numpy(np.array(image)).permute(2, 0, 1))
    read = kind.read(target, (32, 32))
    np.testing.assert_array_equal(data.train.told.values[5][: len(read)], read)


def test_strata_with_few_images_are_one():
    labels = np.array([0] * 30 + [1] * 12 + [2] * 6 + [3] * 5)
    assert np.unique(merge_strata(labels), return_counts=True)[1].tolist() == [11, 30, 12]
    labels = np.array([0] * 30 + [1] * 3)
    assert np.unique(merge_strata(labels)).tolist() == [0]
    assert np.unique(merge_strata(np.arange(5))).tolist() == [-1]
    with pytest.raises(DataError, match="only one image of class"):
        load_datasets(DrawnShapes(1), targets=MASKS)


def test_masks_that_write_the_foreground_as_255_are_refused():
    pairs = [(torch.zeros(3, 4, 4), torch.tensor([[0, 255]] * 2).repeat(2, 2)) for _ in range(10)]
    with pytest.raises(
        DataError, match=r"^python, train: masks have the values 0 and 255 alone.*Write the foreground as 1"
    ):
        load_datasets(pairs, targets=MASKS)


class Sized(Dataset):
    """Images of different sizes, whose mask is their red channel."""

    def __init__(self, count: int = 24, turned: bool = False) -> None:
        self.count, self.turned = count, turned

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int):
        rng = np.random.default_rng(number)
        mask = np.kron(rng.integers(0, 4, (5, 4)), np.ones((8, 8 + 2 * (number % 3)))).astype(np.uint8)
        image = Image.fromarray(np.stack([mask * 60] * 3, 2))
        if self.turned:
            image.getexif()[0x0112] = 6
        return image, Image.fromarray(mask)


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "crop+flip"])
@pytest.mark.parametrize("encoded", [False, True])
def test_masks_are_scaled_cut_and_moved_as_their_images(augment, encoded, monkeypatch):
    if encoded:
        monkeypatch.setattr("autoslim.data._base.describe_excess", lambda count, shape: "too many")
    data = load_datasets(Sized(), input_shape=(3, 40, 32), targets=MASKS)
    assert isinstance(data.train, Encoded if encoded else Split)
    loader = make_loader(data.train, 6, (0.0,) * 3, (1.0,) * 3, augment, shuffle=True, seed=3)
    moved = 0
    for epoch in (0, 1):
        for x, masks in loader.epoch(epoch):
            said = (x[:, 0] * 255 / 60).round()
            # bilinear edges differ from those of the nearest pixel; everything else is the same
            assert ((said == masks) | (x[:, 0] * 255 % 60 != 0)).double().mean() > 0.97
            assert (said == masks).double().mean() > 0.8
            moved += int(not torch.equal(masks, masks.flip(2)))
    assert moved


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_encoded_and_decoded_images_have_the_same_targets(kind):
    data = load_data(f"shapes-{kind}:30,32", targets=MASKS if kind == "masks" else BOXES)
    plain = make_loader(data.train, 8, data.mean, data.std)
    for workers in (0, 1):
        decoded = make_loader(data.train.encoded(), 8, data.mean, data.std, erase=1e-9, workers=workers)
        for (x, y), (x_again, y_again) in zip(plain.epoch(0), decoded.epoch(0), strict=True):
            torch.testing.assert_close(x, x_again)
            assert torch.equal(y, y_again)


def test_a_mirrored_box_lies_on_its_shape(monkeypatch):
    for encoded in (False, True):
        data = load_data("shapes-boxes:40,32", targets=BOXES)
        split = data.train.encoded() if encoded else data.train
        plain = dict(enumerate(data.train.told.values))
        loader = make_loader(split, 32, (0.0,) * 3, (1.0,) * 3, "flip")
        ((x, boxes),) = loader.epoch(0)
        mirrored = [not torch.equal(boxes[at], plain[at]) for at in range(32)]
        assert 4 < sum(mirrored) < 28
        for at in range(32):
            image = data.train.images[at] / 255
            torch.testing.assert_close(x[at], image.flip(2) if mirrored[at] else image)
            for (left, top, right, bottom, label), own in zip(boxes[at], plain[at], strict=True):
                assert label == own[4]
                if label:
                    expected = 1 - own[[2, 0]] if mirrored[at] else own[[0, 2]]
                    torch.testing.assert_close(torch.stack([left, right]), expected)
                    assert (top, bottom) == (own[1], own[3])


def test_shifts_and_reflections_are_places():
    rows, columns = shift_places([(1, 0, False), (0, -1, True)], 3, 4)
    assert rows.tolist() == [[1, 2, 1], [0, 1, 2]]
    assert columns.tolist() == [[0, 1, 2, 3], [2, 1, 0, 1]]
    assert shift_places([None, (0, 0, False)], 3, 4) == (None, None)


def test_what_tells_splits_apart_looks_at_targets():
    data = load_data("shapes-masks:30,32", targets=MASKS)
    for split in (data.train, data.train.encoded()):
        other = split.take(np.arange(len(split)))
        other.told.values[0] += 1
        assert split.content(0) != other.content(0)
        assert split.content(1) == other.content(1)
        pairs = zip(split.fingerprint(), other.fingerprint(), strict=True)
        assert not all(np.array_equal(one, two) for one, two in pairs)


class Numbered(Dataset):
    def __init__(self, targets):
        self.given = targets

    def __len__(self):
        return len(self.given)

    def __getitem__(self, number):
        return torch.full((3, 8, 8), number, dtype=torch.uint8), self.given[number]


def test_numbers_are_read_and_stay():
    data = load_datasets(Numbered([[float(n), 1.0] for n in range(20)]), targets=Numbers())
    assert (data.classes, data.train.told.values.shape) == (("0", "1"), (16, 2))
    assert torch.equal(data.train.told.values[:, 0], data.train.images[:, 0, 0, 0].float())
    with pytest.raises(DataError, match=r"python, train: images have \[1, 2\] numbers; expected as many for each"):
        load_datasets(Numbered([[1.0]] * 10 + [[1.0, 2.0]] * 10), Numbered([[1.0]]), targets=Numbers())


def test_images_to_be_turned_and_targets_beyond_memory_are_refused(monkeypatch):
    with pytest.raises(DataError, match=r"item 0: its image is to be turned \(EXIF\); expected it upright, as its tar"):
        load_datasets(Sized(turned=True), targets=MASKS)
    monkeypatch.setattr("autoslim.data._told.fits_memory", lambda count, shape: False)
    with pytest.raises(
        DataError, match=r"the targets of 16 images would take .* expected what fits into memory beside"
    ):
        load_data("shapes-masks:20,32", targets=MASKS)
