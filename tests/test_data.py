"""Where images come from: what each source finds, how images are brought to one shape, what is refused, and batches."""

import io
import os
import random
import re
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from sklearn.datasets import load_digits
from torch.nn import functional
from torchvision import transforms

from autoslim.data import SOURCES, Data, DecodingLoader, Encoded, Loader, Split, hold_out, load_data, make_loader
from autoslim.data import _listing as listing_module
from autoslim.data._augment import make_transform
from autoslim.data._images import cover, decode_listing
from autoslim.data._random import draw_stratified, make_generator
from autoslim.errors import DataError, UnknownNameError
from autoslim.ranks import Ranks

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Loading and batching leave the global generators, the working folder and third-party switches alone."""

    def look() -> tuple[Any, ...]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        generators = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate())
        switches = (ImageFile.LOAD_TRUNCATED_IMAGES, datasets.are_progress_bars_disabled())
        return *generators, *switches, Path.cwd(), environment

    before = look()
    yield
    assert look() == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_class(folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    """`count` PNG images 000.png, 001.png, ... in a new folder."""
    folder.mkdir(parents=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    for number in range(count):
        Image.fromarray(pixels(*shape)).save(folder / f"{number:03}.png")


def make_folder(root: Path, counts: dict[str, int], **options: Any) -> Path:
    for name, count in counts.items():
        make_class(root / name, count, **options)
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def refused(spec: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec, **options)
    return str(caught.value)


def split_of(labels: Sequence[int], side: int = 8, channels: int = 3) -> Split:
    return Split(torch.from_numpy(pixels(len(labels), channels, side, side)), torch.tensor(labels, dtype=torch.int64))


def rows_of(split: Split) -> list[bytes]:
    return sorted(image.numpy().tobytes() + bytes([int(label)]) for image, label in zip(split.images, split.labels))  # noqa: B905


# Splits -------------------------------------------------------------------------------------------------------------


def test_take_copies_in_the_order_asked_for():
    split = split_of([0, 1, 2, 3])
    for indices in (torch.tensor([2, 0]), np.array([2, 0]), [2, 0]):
        taken = split.take(indices)
        assert torch.equal(taken.images, split.images[[2, 0]])
        assert taken.labels.tolist() == [2, 0]
        assert taken.images.is_contiguous()
    assert len(split) == 4
    assert len(split.take([])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2, dtype=torch.int64),
            "Split: images torch.float32 [2, 1, 4, 4], labels torch.int64 [2]; expected contiguous uint8 [N, C, H, W] "
            "and int64 [N]. Convert them first.",
        ),
        (
            torch.zeros(2, 4, 4, 1, dtype=torch.uint8).permute(0, 3, 1, 2)[:, :, :, ::2],
            torch.zeros(2, dtype=torch.int64),
            "Split: images torch.uint8 [2, 1, 4, 2], labels torch.int64 [2]; expected contiguous uint8 [N, C, H, W] "
            "and int64 [N]. Convert them first.",
        ),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            "Split: 2 images but labels of shape [3]; expected [2]. Give each image one label.",
        ),
    ],
)
def test_a_split_refuses_what_it_does_not_promise(images: torch.Tensor, labels: torch.Tensor, text: str):
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        Split(images, labels)


many_labels = st.lists(st.integers(0, 5), min_size=2, max_size=200).map(lambda labels: sorted(labels + labels))


@given(many_labels, st.floats(0.01, 0.99), st.integers(1, 300), st.integers(-5, 2**40))
@settings(max_examples=60, deadline=None)
def test_hold_out_divides_and_is_stratified(labels: list[int], share: float, most: int, seed: int):
    split = Split(torch.arange(len(labels)).to(torch.uint8).reshape(-1, 1, 1, 1), torch.tensor(labels))
    rest, held = hold_out(split, share=share, most=most, seed=seed)
    again = hold_out(split, share=share, most=most, seed=seed)
    assert (rest.images.tolist(), held.images.tolist()) == (again[0].images.tolist(), again[1].images.tolist())
    assert rows_of(split) == sorted(rows_of(rest) + rows_of(held))
    sizes, kept, out = (part.labels.bincount(minlength=6) for part in (split, rest, held))
    present = sizes > 0
    assert bool((out[present] >= 1).all())
    assert bool((kept[present] >= 1).all())
    count, classes = min(round(share * len(labels)), most), int(present.sum())
    assert len(held) == min(max(count, classes), len(labels) - classes)
    # each class is as near to its part as whole numbers allow, unless that would leave it empty on one side
    ideal = sizes * (max(count, 1) / len(labels))
    bound = (out == 1) | (out == sizes - 1) | ~present
    if not bool(bound.logical_and(present).any()):
        assert float((out - ideal).abs().max()) < 1


def test_hold_out_by_numbers():
    split = split_of([0] * 60 + [1] * 30 + [2] * 10)
    rest, held = hold_out(split, seed=0)
    assert held.labels.bincount().tolist() == [6, 3, 1]
    assert rest.labels.bincount().tolist() == [54, 27, 9]
    assert hold_out(split, share=0.5, most=20, seed=0)[1].labels.bincount().tolist() == [12, 6, 2]
    assert hold_out(split, share=0.001, seed=0)[1].labels.bincount().tolist() == [1, 1, 1]
    assert rows_of(hold_out(split, seed=1)[1]) != rows_of(held)


def test_hold_out_refuses_a_class_of_one_image():
    text = (
        "hold_out: only one image of class 1, class 4; expected two or more of each class, as each is divided. "
        "Add images, or leave such a class out."
    )
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        hold_out(split_of([0, 0, 1, 3, 3, 4]), seed=0)


@pytest.mark.parametrize(("share", "most"), [(0.0, 10), (1.0, 10), (-0.1, 10), (0.1, 0)])
def test_hold_out_refuses_shares_that_are_none(share: float, most: int):
    text = f"hold_out: share {share}, most {most}; expected 0 < share < 1 and at least 1 image. Use for instance"
    text = f"{text} share=0.1."
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        hold_out(split_of([0, 0, 1, 1]), share=share, most=most, seed=0)


@given(many_labels, st.integers(1, 100), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_draws_differ_by_purpose_only_in_which_not_in_how_many(labels: list[int], count: int, seed: int):
    array = np.array(labels)
    one, two = (draw_stratified(array, count, purpose=purpose, seed=seed) for purpose in ("one", "two"))
    assert np.bincount(array[one]).tolist() == np.bincount(array[two]).tolist()
    assert np.unique(one).tolist() == one.tolist()


def test_generators_depend_on_purpose_and_numbers():
    drawn = {
        torch.randint(2**40, (), generator=make_generator(purpose, seed, epoch)).item()
        for purpose in ("order", "crop")
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(drawn) == 8


# Digits -------------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    data = load_data("digits")
    bunch: Any = load_digits()
    known = sorted(
        (image * 255 / 16).round().astype(np.uint8).tobytes() + bytes([label])
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert sorted(rows_of(data.train) + rows_of(data.test)) == known
    assert (data.name, data.input_shape, data.num_classes, data.resize) == ("digits", (1, 8, 8), 10, "none")
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.notes == (
        "No test split came along: 359 of the 1797 images are set aside as test, the classes in proportion, drawn with "
        "seed 0.",
    )
    share = data.test.labels.bincount() / torch.from_numpy(np.bincount(bunch.target))
    assert bool(((share > 0.19) & (share < 0.21)).all())


def test_digits_follow_the_seed_and_nothing_else():
    first, again, other = load_data("digits", seed=3), load_data("digits", seed=3), load_data("digits", seed=4)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.test.images, other.test.images)


def test_digits_at_another_shape():
    small, large = load_data("digits"), load_data("digits", input_shape=(3, 32, 32))
    assert large.input_shape == (3, 32, 32)
    assert large.resize == "bilinear, shorter side to 32, centre crop"
    image = Image.fromarray(small.train.images[5, 0].numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    for channel in range(3):
        assert np.array_equal(large.train.images[5, channel].numpy(), np.asarray(image))
    assert large.mean == pytest.approx((large.mean[0],) * 3, rel=1e-12)


def test_statistics_are_those_of_the_train_images():
    data = load_data("digits", input_shape=(3, 8, 8))
    scaled = data.train.images.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_a_constant_channel_has_a_std_above_zero(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (4, 4), (255, 0, 51)).save(tmp_path / name / f"{number}.png")
    data = load_data(f"folder:{tmp_path}")
    assert data.mean == pytest.approx((1.0, 0.0, 0.2), abs=1e-12)
    assert data.std == (1 / 255,) * 3


def test_a_limit_draws_each_class_in_proportion():
    data = load_data("digits", limit=50)
    assert data.train.labels.bincount().tolist() == [5] * 10
    assert data.test.labels.bincount().tolist() == [5] * 10
    assert data.notes[-1] == "Limited to 50 train and 50 test images, drawn with seed 0."
    assert set(rows_of(data.test)).isdisjoint(rows_of(load_data("digits").train))
    assert len(load_data("digits", limit=10_000).train) == 1438
    assert refused("digits", limit=9) == (
        "digits: a limit of 9 images is less than one for each of the 10 classes; expected at least 10. Raise "
        "the limit."
    )


# Specs --------------------------------------------------------------------------------------------------------------


def test_the_sources():
    assert sorted(SOURCES) == ["digits", "file", "folder", "hf", "hf-stream", "python", "webdataset"]


FORMS = (
    "Write digits, folder:PATH, hf:NAME_OR_FOLDER, hf-stream:NAME_OR_URL, webdataset:PATTERN or "
    "path/to/file.py:FACTORY."
)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("digit", f"Unknown data source 'digit'. Closest: digits. {FORMS}"),
        (
            "",
            "Unknown data source ''. Known: digits, file, folder, hf, hf-stream, python, shapes-boxes, shapes-masks, "
            f"webdataset. {FORMS}",
        ),
        (
            "folders:/x",
            f"Unknown data source 'folders'. Closest: folder, file. {FORMS}",
        ),
    ],
)
def test_an_unknown_source_names_the_closest(spec: str, text: str):
    with pytest.raises(UnknownNameError) as caught:
        load_data(spec)
    assert str(caught.value) == text


def test_digits_take_no_place():
    assert refused("digits:8x8") == "digits:8x8: digits is one data set; expected nothing after its name. Write digits."


@pytest.mark.parametrize("shape", [(2, 8, 8), (4, 8, 8), (3, 0, 8)])
def test_a_shape_that_no_image_has(shape: tuple[int, int, int]):
    assert refused("digits", input_shape=shape) == (
        f"digits: images can't be brought to {'x'.join(map(str, shape))}; expected channels x height x width with 1 "
        "channel (grey) or 3 (RGB). Choose for instance --input 3,32,32."
    )


def test_images_that_exceed_memory_stay_encoded_and_it_is_told(monkeypatch: pytest.MonkeyPatch):
    assert listing_module._MEMORY == 8 * 2**30
    data = load_data("digits", input_shape=(3, 2000, 2000))
    assert isinstance(data.train, Encoded)
    assert data.notes[-2] == (
        "1797 images of 3x2000x2000 would take 20.1 GiB decoded, more than 8: they are read and decoded again each "
        "time, by --workers processes."
    )
    assert data.notes[-1] == "Mean and standard deviation are those of 44 train images, drawn with seed 0."
    monkeypatch.setattr(listing_module, "_MEMORY", 1797 * 64)
    assert isinstance(load_data("digits").train, Split)
    monkeypatch.setattr(listing_module, "_MEMORY", 1797 * 64 - 1)
    assert isinstance(load_data("digits").test, Encoded)


def both_kinds(spec: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Data, Data]:
    """The same data in memory and encoded."""
    whole = load_data(spec)
    monkeypatch.setattr(listing_module, "_MEMORY", 0)
    return whole, load_data(spec)


@pytest.mark.parametrize("kind", ["digits", "folder", "hf"])
def test_encoded_images_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    if kind != "digits":
        make_folder(tmp_path / "images", {"a": 12, "b": 9}, size=(11, 8))
    spec = kind if kind == "digits" else f"{kind}:{tmp_path / 'images'}"
    whole, encoded = both_kinds(spec, monkeypatch)
    assert (encoded.input_shape, encoded.classes) == (whole.input_shape, whole.classes)
    for one, other in ((whole.train, encoded.train), (whole.test, encoded.test)):
        batches = [list(make_loader(split, 8, whole.mean, whole.std).epoch(0)) for split in (one, other)]
        assert len(batches[0]) == len(batches[1])
        for (x, y), (x_encoded, y_encoded) in zip(*batches, strict=True):
            assert torch.equal(y, y_encoded)
            torch.testing.assert_close(x, x_encoded)
            assert x_encoded.is_contiguous()
    parts = [hold_out(split, seed=3) for split in (whole.train, encoded.train)]
    for part, part_encoded in zip(*parts, strict=True):
        assert part.labels.tolist() == part_encoded.labels.tolist()


@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip", "imagenet", "mobile", "randaugment"])
def test_augmented_batches_follow_from_seed_epoch_and_image_alone(augment: Any):
    split = split_of([0, 1] * 10, side=16)

    def epoch(number: int, *, start: int = 0, stride: int = 1, seed: int = 1, workers: int = 0, rank: int = 0) -> Any:
        options: dict[str, Any] = {"shuffle": True, "seed": seed, "workers": workers}
        if rank:
            options["ranks"] = Ranks(rank - 1, 2)
        encoded = split.encoded()
        loader = make_loader(encoded, 6, (0.5,) * 3, (0.25,) * 3, augment, **options)
        assert isinstance(loader, DecodingLoader)
        return list(loader.epoch(number, start, stride))

    def images(batches: Any) -> torch.Tensor:
        return torch.cat([x for x, _ in batches])

    whole = epoch(2)
    assert [len(y) for _, y in whole] == [6, 6, 6, 2]
    assert torch.equal(images(whole), images(epoch(2)))
    assert torch.equal(images(whole[2:]), images(epoch(2, start=2)))
    assert torch.equal(images(whole[1::2]), images(epoch(2, start=1, stride=2)))
    assert not torch.equal(images(whole), images(epoch(3)))
    assert not torch.equal(images(whole), images(epoch(2, seed=2)))
    for (x, _), (first, _), (second, _) in zip(whole, epoch(2, rank=1), epoch(2, rank=2), strict=True):
        assert torch.equal(x, torch.cat([first, second]))
    if augment in ("none", "randaugment"):
        assert torch.equal(images(whole), images(epoch(2, workers=2)))
    plain = images(make_loader(split, 6, (0.5,) * 3, (0.25,) * 3, shuffle=True, seed=1).epoch(2))
    assert torch.equal(images(whole), plain) == (augment == "none")


def test_shifts_of_encoded_images_reach_an_eighth_of_the_side_and_no_further():
    image = Image.fromarray(pixels(16, 16, 3))
    state = random.getstate()
    try:
        seen = {make_transform("crop+flip", (3, 16, 16))(image).tobytes() for _ in range(1000)}
    finally:
        random.setstate(state)
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows_ = [padded[y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    assert seen == {np.ascontiguousarray(w).tobytes() for each in windows_ for w in (each, each[:, ::-1])}


def test_an_image_that_can_not_be_read_is_named_when_its_turn_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_folder(tmp_path, {"a": 12, "b": 9})
    monkeypatch.setattr(listing_module, "_MEMORY", 0)
    monkeypatch.setattr("autoslim.data._base._SAMPLE", 2)
    data = load_data(f"folder:{tmp_path}", input_shape=(3, 8, 8))
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a/0\d\d.png can't be read: not an image that Pillow can read"):
        list(make_loader(data.train, 4, data.mean, data.std).epoch(0))


def test_a_worker_that_dies_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoslim.data._encoded.decode_image", lambda *args: os._exit(1))
    loader = make_loader(split_of([0, 1] * 10, side=16), 4, (0.5,) * 3, (0.25,) * 3, "mobile", workers=1)
    with pytest.raises(DataError, match=r"A process that decodes images died.*--workers"):
        list(loader.epoch(0))


def test_timm_needs_square_images():
    with pytest.raises(DataError, match="expected an input of equal height and width, this one is 8x16"):
        make_transform("mobile", (3, 8, 16))


# Folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_with_train_and_test(tmp_path: Path):
    make_folder(tmp_path / "train", {"cat": 4, "ant": 3})
    make_folder(tmp_path / "test", {"ant": 2, "cat": 1})
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("ant", "cat")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1]
    assert (data.input_shape, data.resize, data.notes) == ((3, 8, 8), "none", ())
    first = np.asarray(Image.open(tmp_path / "train" / "ant" / "000.png")).transpose(2, 0, 1)
    assert np.array_equal(data.train.images[0].numpy(), first)
    assert isinstance(data, Data)


def test_a_folder_without_a_test_split(tmp_path: Path):
    make_folder(tmp_path, {"a": 10, "b": 20})
    data = load_data(f"folder:{tmp_path}", seed=7)
    assert data.train.labels.bincount().tolist() == [8, 16]
    assert data.test.labels.bincount().tolist() == [2, 4]
    assert data.notes == (
        "No test split came along: 6 of the 30 images are set aside as test, the classes in proportion, drawn with "
        "seed 7.",
    )
    assert set(rows_of(data.train)).isdisjoint(rows_of(data.test))


def test_a_folder_with_train_only(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 5, "b": 5})
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.notes[0].startswith("No test split came along: 2 of the 10 images")


def test_val_serves_as_test_and_is_told(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 2, "b": 2})
    make_folder(tmp_path / "val", {"a": 1, "b": 1})
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.notes == ("There is no test folder: val serves as test.",)


def test_a_class_may_be_called_train(tmp_path: Path):
    make_folder(tmp_path, {"car": 5, "train": 5})
    assert load_data(f"folder:{tmp_path}").classes == ("car", "train")


def test_hidden_files_are_passed_over_and_other_files_told(tmp_path: Path):
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / ".DS_Store").write_text("x")
    (tmp_path / "a" / "readme.txt").write_text("x")
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("a", "b")
    assert data.notes[0] == "Not used: 1 file in the class folders with no image's name."


def test_images_in_folders_inside_class_folders_are_told(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 5, "b": 5, "a/2019": 2, "a/2020/may": 1, "b/.cache": 4})
    make_folder(tmp_path / "test", {"a": 5, "b": 5, "b/more": 1})
    (tmp_path / "train" / "b" / "notes").mkdir()
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (10, 10)
    assert data.notes == (
        "Not used: 4 images in folders inside the class folders: train/a/2019, train/a/2020, test/b/more. Only what "
        "lies directly in a class folder is read.",
    )


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_folder(tmp_path / "pets", {"a": 5, "b": 5})
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        assert load_data("folder:~/pets").name == "folder:~/pets"


def test_a_folder_that_is_not_there(tmp_path: Path):
    assert refused(f"folder:{tmp_path}/no") == (
        f"folder:{tmp_path}/no: there is no such folder; expected one with a folder per class. Check the path, seen "
        f"from {Path.cwd()}."
    )
    assert refused("folder:").startswith("folder:: there is no such folder;")


def test_no_images_at_all(tmp_path: Path):
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: no images at all: {tmp_path} has no class folders; expected one folder per class with its "
        "images. Move the images of each class into a folder of its name."
    )


def test_an_empty_class_is_named(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 2, "b": 0, "c": 2, "d": 0})
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: no images in the class folders b, d of {tmp_path}/train; expected files with names like "
        "1.png or 1.jpg directly in each. Add images, or remove these folders."
    )


def test_one_class_is_too_few(tmp_path: Path):
    make_folder(tmp_path, {"a": 4})
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: all 4 images are of one class (a); expected two classes or more. Add images of another "
        "class."
    )


def test_a_class_of_one_image_has_none_to_test(tmp_path: Path):
    make_folder(tmp_path, {"a": 4, "b": 1})
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: only one image of b; expected three or more of each class, as each is divided into train, "
        "search and test. Add images, or leave such a class out."
    )


def test_two_images_of_a_class_are_too_few_for_train_search_and_test(tmp_path: Path):
    make_folder(tmp_path, {"a": 10, "b": 2, "c": 1})
    assert refused(f"folder:{tmp_path}").startswith(
        f"folder:{tmp_path}: only one or two images of b, c; expected three"
    )
    for name in "bc":
        for number in range(3):
            Image.fromarray(pixels(8, 8, 3)).save(tmp_path / name / f"{number:03}.png")
    train, search = hold_out(load_data(f"folder:{tmp_path}").train, seed=0)
    assert train.labels.unique().tolist() == search.labels.unique().tolist() == [0, 1, 2]


def test_folders_of_splits_are_no_classes(tmp_path: Path):
    make_folder(tmp_path, {"train": 5, "Val": 5})
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: {tmp_path} has the folders Val, train alone, splits and no classes; expected train and "
        "test with a folder per class in each. Move the images of each class into a folder of its name: train/CLASS, "
        "test/CLASS."
    )
    make_class(tmp_path / "car", 5)
    assert load_data(f"folder:{tmp_path}").classes == ("Val", "car", "train")


def test_the_first_split_with_class_folders_serves_as_test_and_others_are_told(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 4, "b": 4, "__MACOSX": 1})
    make_class(tmp_path / "test", 3)
    (tmp_path / "__MACOSX").mkdir()
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.notes[0] == "Not used: 1 folder beside train: test."
    make_folder(tmp_path / "val", {"a": 1, "b": 1})
    data = load_data(f"folder:{tmp_path}")
    assert (data.classes, len(data.train), len(data.test)) == (("a", "b"), 8, 2)
    assert data.notes == (
        "The test folder has no class folders: val serves as test.",
        "Not used: 1 folder beside train and val: test.",
    )
    make_folder(tmp_path / "test", {"a": 2, "b": 2})
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.test), data.notes) == (4, ("Not used: 1 folder beside train and test: val.",))


def test_of_many_classes_that_differ_a_few_are_named(tmp_path: Path):
    make_folder(tmp_path / "train", {f"n{number:02}": 1 for number in range(30)})
    make_folder(tmp_path / "test", {"n00": 1})
    assert "only in train: n01, n02, n03, n04, n05 and 24 more. Expected" in refused(f"folder:{tmp_path}")


def test_train_and_test_must_have_the_same_classes(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    make_folder(tmp_path / "test", {"a": 1, "d": 1})
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}: train and test have different class folders, only in train: b, c; only in test: d. "
        "Expected the same names in both. Rename, add or remove folders."
    )


# Unreadable images --------------------------------------------------------------------------------------------------


def test_few_unreadable_images_are_left_out_and_told(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 100, "b": 100})
    make_folder(tmp_path / "test", {"a": 2, "b": 2})
    before = load_data(f"folder:{tmp_path}")
    truncate(tmp_path / "train" / "a" / "003.png")
    (tmp_path / "train" / "b" / "000.png").write_text("no image")
    data = load_data(f"folder:{tmp_path}")
    assert data.notes == (
        f"folder:{tmp_path}, train: 2 of 200 images can't be read: a/003.png (image file is truncated), b/000.png (not "
        "an image that Pillow can read). They are left out.",
    )
    kept = [index for index in range(200) if index not in (3, 100)]
    assert torch.equal(data.train.images, before.train.images[kept])
    assert torch.equal(data.train.labels, before.train.labels[kept])
    assert data.train.images.is_contiguous()
    assert load_data(f"folder:{tmp_path}", input_shape=(3, 8, 8)).notes == data.notes


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such names")
def test_names_that_are_not_utf8_are_written_out_in_notes(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9")
    make_folder(tmp_path / "train", {"a": 100, name: 100, f"{name}/{name}": 1})
    make_folder(tmp_path / "test", {"a": 2, name: 2})
    (tmp_path / "train" / "a" / f"{name}.jpg").write_text("no image")
    data = load_data(f"folder:{tmp_path}")
    assert data.classes == ("a", name)
    assert data.notes[0].startswith(
        r"Not used: 1 image in folders inside the class folders: train/caf\udce9/caf\udce9."
    )
    assert r"train: 1 of 201 images can't be read: a/caf\udce9.jpg (not an image" in data.notes[1]


def test_more_than_one_percent_is_refused(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 100, "b": 99})
    make_folder(tmp_path / "test", {"a": 2, "b": 2})
    for number in range(7):
        (tmp_path / "train" / "a" / f"{number:03}.png").write_bytes(b"")
    names = ", ".join(f"a/{number:03}.png (not an image that Pillow can read)" for number in range(5))
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}, train: 7 of 199 images can't be read: {names} and 2 more. Expected at most 1%. Replace or "
        "remove them."
    )


def test_nothing_readable_is_refused_and_not_guessed(tmp_path: Path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_text("x")
    assert "train: 2 of 2 images can't be read: a/1.png" in refused(f"folder:{tmp_path}")


def test_the_last_image_of_a_class_is_not_left_out(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 150, "b": 1})
    make_folder(tmp_path / "test", {"a": 1, "b": 1})
    truncate(tmp_path / "train" / "b" / "000.png")
    assert refused(f"folder:{tmp_path}") == (
        f"folder:{tmp_path}, train: 1 of 151 images can't be read: b/000.png (image file is truncated). No image of b "
        "is left; expected one. Replace them."
    )


def test_a_file_that_goes_missing_is_unreadable(tmp_path: Path):
    make_folder(tmp_path, {"a": 2, "b": 2})
    with SOURCES["folder"](str(tmp_path)) as found:
        (tmp_path / "a" / "001.png").unlink()
        decoded = decode_listing(found.train, (3, 8, 8))
    assert decoded.failed == ("a/001.png (No such file or directory)",)
    assert decoded.kept.tolist() == [0, 2, 3]


def test_a_link_to_nowhere_with_the_name_of_an_image_is_unreadable(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 100, "b": 99})
    make_folder(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "train" / "b" / "099.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "b" / "100.png").symlink_to(tmp_path / "train" / "a" / "000.png")
    data = load_data(f"folder:{tmp_path}")
    assert len(data.train) == 200
    assert data.notes == (
        f"folder:{tmp_path}, train: 1 of 201 images can't be read: b/099.png (No such file or directory). They are "
        "left out.",
    )
    for number in (101, 102):
        (tmp_path / "train" / "b" / f"{number}.png").symlink_to(f"{number}.png")
    assert "train: 3 of 203 images can't be read: b/099.png" in refused(f"folder:{tmp_path}")


# Modes, sizes, orientation ------------------------------------------------------------------------------------------


def load_two(tmp_path: Path, images: Sequence[tuple[str, bytes]], **options: Any) -> Data:
    """Data whose train images are these, in order: each in a class of its own, twice."""
    for number, (suffix, content) in enumerate(images):
        for part in ("train", "test"):
            folder = tmp_path / part / f"{number:02}"
            folder.mkdir(parents=True)
            (folder / f"1.{suffix}").write_bytes(content)
    return load_data(f"folder:{tmp_path}", **options)


def test_every_mode_comes_out_as_its_colours(tmp_path: Path):
    rgb = Image.fromarray(pixels(6, 5, 3))
    grey = Image.fromarray(pixels(6, 5))
    alpha = Image.fromarray(pixels(6, 5))
    palette = rgb.quantize(16)
    transparent = palette.copy()
    transparent.info["transparency"] = bytes(range(16))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    la = grey.copy()
    la.putalpha(alpha)
    wide = np.arange(30, dtype=np.uint16).reshape(6, 5) * 2259
    bits = Image.fromarray(pixels(6, 5)).convert("1")
    expected = {
        "rgb": (encode(rgb), np.asarray(rgb)),
        "rgba": (encode(rgba), np.asarray(rgb)),
        "palette": (encode(palette), np.asarray(palette.convert("RGB"))),
        "transparent": (encode(transparent), np.asarray(palette.convert("RGB"))),
        "cmyk": (encode(rgb.convert("CMYK"), "TIFF"), np.asarray(rgb.convert("CMYK").convert("RGB"))),
        "grey": (encode(grey), np.asarray(grey)),
        "la": (encode(la), np.asarray(grey)),
        "16 bits": (encode(Image.fromarray(wide)), np.rint(wide / 257).astype(np.uint8)),
        "1 bit": (encode(bits), np.asarray(bits).astype(np.uint8) * 255),
    }
    data = load_two(tmp_path, [("png", content) for content, _ in expected.values()])
    assert data.input_shape == (3, 6, 5)
    for (name, (_, wanted)), image in zip(expected.items(), data.train.images, strict=True):
        wanted = wanted if wanted.ndim == 3 else np.stack([wanted] * 3, axis=2)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), wanted), name


def test_grey_images_of_any_mode_keep_one_channel(tmp_path: Path):
    grey = Image.fromarray(pixels(6, 5))
    la = grey.copy()
    la.putalpha(128)
    wide = Image.fromarray(np.full((6, 5), 65535, dtype=np.uint16))
    signed = Image.fromarray(np.full((6, 5), 257 * 9, dtype=np.int32))
    contents = [("png", encode(image)) for image in (grey, la, grey.convert("1"), wide)]
    data = load_two(tmp_path, [*contents, ("tif", encode(signed, "TIFF"))])
    assert data.input_shape == (1, 6, 5)
    assert np.array_equal(data.train.images[0, 0].numpy(), np.asarray(grey))
    assert torch.equal(data.train.images[0], data.train.images[1])
    assert data.train.images[3].unique().tolist() == [255]
    assert data.train.images[4].unique().tolist() == [9]


def test_one_image_with_colour_makes_three_channels(tmp_path: Path):
    grey, colour = Image.fromarray(pixels(6, 5)), Image.fromarray(pixels(6, 5, 3))
    data = load_two(tmp_path, [("png", encode(grey)), ("png", encode(colour))])
    assert data.input_shape == (3, 6, 5)
    as_grey = load_data(f"folder:{tmp_path}", input_shape=(1, 6, 5))
    assert np.array_equal(as_grey.train.images[1, 0].numpy(), np.asarray(colour.convert("L")))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((4, 4), dtype=np.float32), "floating-point pixels, whose range is unknown"),
        (np.full((4, 4), 70_000, dtype=np.int32), "32-bit pixels that do not fit 16 bits"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, values: Any, reason: str):
    content = encode(Image.fromarray(values), "TIFF")
    with pytest.raises(DataError, match=re.escape(f"2 of 2 images can't be read: 00/1.tif ({reason})")):
        load_two(tmp_path, [("tif", content), ("tif", content)])


def test_wide_images_that_would_be_black_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wide = {"I": np.int32, "I;16": np.uint16}
    for mode, kind in wide.items():
        dark = ("tif", encode(Image.fromarray(np.full((6, 5), 255, dtype=kind)), "TIFF"))
        black = ("tif", encode(Image.fromarray(np.zeros((6, 5), dtype=kind)), "TIFF"))
        text = (
            "train: 1 images have 16 or 32 bits a pixel and no value above 255, which would be next to black; expected"
        )
        with pytest.raises(DataError, match=text):
            load_two(tmp_path / mode, [dark, black])
        bright = ("tif", encode(Image.fromarray(np.full((6, 5), 256, dtype=kind)), "TIFF"))
        assert load_two(tmp_path / f"{mode} bright", [dark, bright]).train.images.unique().tolist() == [1]
        assert load_two(tmp_path / f"{mode} black", [black, black]).train.images.unique().tolist() == [0]
    monkeypatch.setattr(listing_module, "_MEMORY", 0)
    with pytest.raises(DataError, match="train: 1 images have 16 or 32 bits"):
        load_data(f"folder:{tmp_path}/I")


def test_images_that_look_alike_are_told(tmp_path: Path):
    drawn = np.zeros((2, 6, 5, 4), dtype=np.uint8)
    drawn[:, 1:4, 1:4, 3] = pixels(2, 3, 3)
    alpha = [("png", encode(Image.fromarray(each))) for each in drawn]
    same = "the deviation is below one step of a pixel. (Transparency is dropped: what is drawn in it alone is lost.)"
    assert load_two(tmp_path / "all", alpha).notes == (f"All train images look nearly the same: {same}",)
    drawn[:, :, :, 1] = pixels(2, 6, 5)
    green = [("png", encode(Image.fromarray(each))) for each in drawn]
    notes = load_two(tmp_path / "some", green).notes
    assert notes == (f"All train images look nearly the same in channel 1, 3 of 3: {same}",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int):
    stored = Image.fromarray(pixels(6, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = load_two(tmp_path, [("png", encode(stored, exif=exif)), ("png", encode(stored, exif=exif))])
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = stored.transpose(turns[orientation]) if orientation > 1 else stored
    assert data.input_shape == (3, *upright.size[::-1])
    assert data.resize == "none"
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), np.asarray(upright))


def make_exif(*entries: tuple[int, int, int, bytes], offset: int | None = None) -> bytes:
    """EXIF data of one directory: tag, type, count and four bytes each."""
    body = b"".join(struct.pack("<HHI4s", tag, kind, count, value) for tag, kind, count, value in entries)
    start = struct.pack("<2sHI", b"II", 42, 8 if offset is None else offset)
    return b"Exif\0\0" + start + struct.pack("<H", len(entries)) + body + bytes(4)


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")
BROKEN = {  # what Pillow raises when it writes such data anew, or reads it
    "AttributeError": (make_exif((0x010F, 11, 1, bytes(4)), TURNED), True),
    "TypeError": (make_exif((0x010F, 2, 1, b"x\0\0\0"), (0x011A, 7, 4, b"abcd"), TURNED), True),
    "struct.error": (make_exif(TURNED, offset=2**31), False),
    "an orientation of words": (make_exif((0x0112, 2, 4, b"six\0")), False),
    "no directory at all": (b"Exif\0\0garbage", False),
}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_exif_data_end_nothing(tmp_path: Path, suffix: str, name: str):
    exif, turned = BROKEN[name]
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix]
    stored = Image.fromarray(pixels(6, 4, 3))
    content = encode(stored, kind, exif=exif)
    data = load_two(tmp_path, [(suffix, content), (suffix, content)])
    with Image.open(io.BytesIO(encode(stored, kind))) as plain:
        wanted = plain.transpose(Image.Transpose.ROTATE_270) if turned else plain.copy()
    assert data.notes == ()
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_a_tiff_with_tags_of_another_type_is_unreadable(tmp_path: Path):
    content = encode(Image.fromarray(pixels(6, 4, 3)), "TIFF")
    at = content.index(struct.pack("<HH", 273, 4))  # where the pixels begin, as a whole number
    broken = content[:at] + struct.pack("<HHI", 273, 5, 1) + content[at + 8 :]
    with pytest.raises(DataError, match=r"2 of 2 images can't be read: 00/1\.tif \(broken tags: "):
        load_two(tmp_path, [("tif", broken), ("tif", broken)])


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (40, 61), (9, 20), (8, 9), (8, 8), (5, 3)])
def test_resizing_is_that_of_torchvision(tmp_path: Path, size: tuple[int, int]):
    image = Image.fromarray(pixels(size[1], size[0], 3))
    usual = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    data = load_two(tmp_path, [("png", encode(image)), ("png", encode(image))], input_shape=(3, 8, 8))
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), np.asarray(usual(image)))
    assert data.resize == ("none" if size == (8, 8) else "bilinear, shorter side to 8, centre crop")


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 20), st.integers(1, 20)))
@settings(max_examples=100, deadline=None)
def test_any_size_covers_any_other(size: tuple[int, int], target: tuple[int, int]):
    covered = cover(Image.new("L", size, 7), target)
    assert covered.size == target
    assert np.unique(np.asarray(covered)).tolist() == [7]  # a crop beyond the edges would be black there


def test_a_shape_that_is_not_square(tmp_path: Path):
    image = Image.fromarray(pixels(20, 20, 3))
    data = load_two(tmp_path, [("png", encode(image)), ("png", encode(image))], input_shape=(3, 5, 10))
    expected = np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR))[2:7]
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), expected)
    assert data.resize == "bilinear, scaled to cover 5x10, centre crop"


def test_sizes_that_differ_come_to_the_median_shorter_side(tmp_path: Path):
    sizes = [(20, 30), (25, 22), (24, 24)]
    data = load_two(tmp_path, [("png", encode(Image.fromarray(pixels(h, w, 3)))) for w, h in sizes])
    assert data.input_shape == (3, 22, 22)
    assert data.resize == "bilinear, shorter side to 22, centre crop"
    assert data.notes == (
        "The images' sizes differ, from 22x25 to 30x20 (height x width): all are brought to 22x22. Choose another size "
        "with --input.",
    )


def test_large_sizes_that_differ_come_to_224(tmp_path: Path):
    data = load_two(tmp_path, [("png", encode(Image.new("L", size))) for size in ((300, 260), (260, 301))])
    assert data.input_shape == (1, 224, 224)


# Hugging Face -------------------------------------------------------------------------------------------------------


def image_rows(count: int, side: int = 6) -> list[dict[str, Any]]:
    return [{"bytes": encode(Image.fromarray(pixels(side, side, 3))), "path": None} for _ in range(count)]


def make_parquet(root: Path, splits: dict[str, dict[str, Any]], features: dict[str, Any] | None = None) -> Path:
    """One parquet file per split, with the types of the columns in its metadata."""
    (root / "data").mkdir(parents=True)
    types = None if features is None else datasets.Features(features)
    for name, columns in splits.items():
        made = datasets.Dataset.from_dict(columns, features=types)
        made.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


TYPES = {"picture": datasets.Image(decode=True), "kind": datasets.ClassLabel(names=["ant", "bee"])}


def test_parquet_columns_are_found_by_type(tmp_path: Path):
    rows = image_rows(5)
    root = make_parquet(
        tmp_path / "set",
        {
            "train": {"picture": rows[:3], "kind": [1, 0, 1]},
            "test": {"picture": rows[3:], "kind": [0, 1]},
        },
        TYPES,
    )
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    data = load_data(f"hf:{root}")
    assert data.classes == ("ant", "bee")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0, 1], [0, 1])
    images = [np.asarray(Image.open(io.BytesIO(row["bytes"]))).transpose(2, 0, 1) for row in rows]
    assert np.array_equal(data.train.images.numpy(), np.stack(images[:3]))
    assert np.array_equal(data.test.images.numpy(), np.stack(images[3:]))
    assert (data.input_shape, data.notes, data.resize) == ((3, 6, 6), (), "none")
    assert sorted(path.relative_to(root) for path in root.rglob("*")) == before


def test_a_local_folder_leaves_no_cache_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    root = make_parquet(tmp_path / "set", {"train": {"picture": image_rows(20), "kind": [0, 1] * 10}}, TYPES)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    capfd.readouterr()
    assert len(load_data(f"hf:{root}").train) == 16
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "temp"]
    assert not list((tmp_path / "temp").iterdir())


def test_an_image_folder_through_hf_equals_the_folder_source(tmp_path: Path):
    make_folder(tmp_path / "train", {"a": 4, "b": 3})
    make_folder(tmp_path / "test", {"a": 2, "b": 2})
    one, two = load_data(f"hf:{tmp_path}"), load_data(f"folder:{tmp_path}")
    assert one.classes == two.classes
    assert torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.test.images, two.test.images)
    assert torch.equal(one.train.labels, two.train.labels)


def test_orientation_is_applied_in_hf_too(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(pixels(6, 4, 3))
    rows = [{"bytes": encode(stored, exif=exif), "path": None}] * 6
    root = make_parquet(tmp_path, {"train": {"picture": rows, "kind": [0, 0, 0, 1, 1, 1]}}, TYPES)
    data = load_data(f"hf:{root}")
    turned = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), turned)


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_validation_serves_as_test_and_is_told(tmp_path: Path, name: str):
    # a data set's files may be named as it likes if its card says which split each is
    root = make_parquet(
        tmp_path,
        {
            "train": {"picture": image_rows(4), "kind": [0, 1, 0, 1]},
            name: {"picture": image_rows(2), "kind": [0, 1]},
        },
        TYPES,
    )
    lines = "".join(f"  - split: {part}\n    path: data/{part}-*\n" for part in ("train", name))
    (root / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{lines}---\n")
    data = load_data(f"hf:{root}")
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.notes == (f"There is no test split: {name} serves as test.",)


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path: Path):
    root = make_parquet(
        tmp_path,
        {
            "train": {"picture": image_rows(4), "kind": [0, 1, 0, 1]},
            "validation": {"picture": image_rows(2), "kind": [0, 1]},
            "test": {"picture": image_rows(3), "kind": [-1, -1, -1]},
        },
        TYPES,
    )
    data = load_data(f"hf:{root}")
    assert len(data.test) == 2
    assert data.notes == ("The test split has no labels: validation serves as test.",)


def test_a_test_split_without_labels_gives_way_to_a_part_of_train(tmp_path: Path):
    columns = {"picture": image_rows(10), "kind": [0, 1] * 5}
    unlabelled = {"picture": image_rows(3), "kind": [-1, -1, -1]}
    data = load_data(f"hf:{make_parquet(tmp_path, {'train': columns, 'test': unlabelled}, TYPES)}")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.notes[0] == "The test split has no labels: a part of train serves as test."
    assert data.notes[1].startswith("No test split came along: 2 of the 10 images")


def test_a_missing_test_split_is_made_and_told(tmp_path: Path):
    root = make_parquet(tmp_path, {"train": {"picture": image_rows(10), "kind": [0, 1] * 5}}, TYPES)
    data = load_data(f"hf:{root}", seed=5)
    assert data.test.labels.bincount().tolist() == [1, 1]
    assert data.notes == (
        "No test split came along: 2 of the 10 images are set aside as test, the classes in proportion, drawn with "
        "seed 5.",
    )


def test_a_single_split_of_any_name_is_divided(tmp_path: Path):
    root = make_parquet(tmp_path, {"test": {"picture": image_rows(10), "kind": [0, 1] * 5}}, TYPES)
    assert len(load_data(f"hf:{root}").train) == 8


def test_no_train_split(tmp_path: Path):
    columns = {"picture": image_rows(4), "kind": [0, 1, 0, 1]}
    root = make_parquet(tmp_path, {"validation": columns, "test": columns}, TYPES)
    text = refused(f"hf:{root}")
    assert text.startswith(f"hf:{root}: no train split among ")
    assert text.endswith("; expected one of that name. Rename a split.")
    assert {"validation", "test"} == set(text.split("among ")[1].split(";")[0].split(", "))


@pytest.mark.parametrize(
    ("values", "kind", "classes", "labels"),
    [
        ([3, 7, 3, 7, 9, 9], datasets.Value("int64"), ("3", "7", "9"), [0, 1, 0, 1, 2, 2]),
        ([2, 1, 2, 1, 2, 1], datasets.Value("uint8"), ("1", "2"), [1, 0, 1, 0, 1, 0]),
        (["b", "a", "b", "a", "b", "a"], datasets.Value("string"), ("a", "b"), [1, 0, 1, 0, 1, 0]),
    ],
)
def test_plain_labels_are_taken_where_no_class_type_is(
    tmp_path: Path, values: list[Any], kind: Any, classes: tuple[str, ...], labels: list[int]
):
    columns = {"id": list(range(6)), "photo": image_rows(6), "what": values}
    types = {"id": datasets.Value("int64"), "photo": datasets.Image(), "what": kind}
    data = load_data(f"hf:{make_parquet(tmp_path, {'train': columns, 'test': columns}, types)}")
    assert data.classes == classes
    assert data.train.labels.tolist() == labels
    assert data.notes == (
        "Column what gives the labels: none is called label, labels, class, target, and no other one has few distinct "
        "integers or strings.",
    )


def test_between_several_plain_columns_the_name_decides(tmp_path: Path):
    columns = {"image": image_rows(6), "width": [6, 6, 6, 8, 8, 8], "label": ["a", "b", "a", "b", "a", "b"]}
    types = {"image": datasets.Image(), "width": datasets.Value("int32"), "label": datasets.Value("string")}
    data = load_data(f"hf:{make_parquet(tmp_path, {'train': columns}, types)}")
    assert (data.classes, len(data.notes)) == (("a", "b"), 1)


@pytest.mark.parametrize("source", ["hf", "hf-stream"])
@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([True, False] * 6, datasets.Value("bool"), ("False", "True")),
        ([f"kind {number:02}" for number in range(12)], datasets.Value("string"), None),
        ([1, 0] * 6, datasets.ClassLabel(names=["n", "y"]), ("n", "y")),
    ],
)
def test_a_column_called_label_is_the_labels(
    tmp_path: Path, source: str, values: list[Any], kind: Any, classes: tuple[str, ...] | None
):
    columns = {"image": image_rows(12), "fold": [0, 0, 0, 1, 1, 1] * 2, "Label": values, "site": [0, 1] * 6}
    types = {"image": datasets.Image(), "fold": datasets.Value("int64"), "Label": kind}
    types["site"] = datasets.ClassLabel(names=["p", "q"])
    data = load_data(f"{source}:{make_parquet(tmp_path, {'train': columns, 'test': columns}, types)}")
    assert data.classes == (classes or tuple(values))
    assert [data.classes[label] for label in data.train.labels] == [
        data.classes[value] if classes == ("n", "y") else str(value) for value in values
    ]
    assert data.notes == ("Column Label gives the labels; not used: site.",)


def test_a_column_called_label_that_has_none_is_refused_and_no_other_taken(tmp_path: Path):
    columns = {"image": image_rows(6), "label": [0.5, 1.5] * 3, "sex": ["f", "m"] * 3}
    types = {"image": datasets.Image(), "label": datasets.Value("float32"), "sex": datasets.Value("string")}
    root = make_parquet(tmp_path, {"train": columns}, types)
    assert refused(f"hf:{root}") == (
        f"hf:{root}: column label is float32, which can't be a label; expected ClassLabel, integers, strings or "
        "booleans. Cast it with the cast_column of datasets, or rename it if it holds no labels."
    )


def test_a_choice_between_columns_is_told(tmp_path: Path):
    columns = {"image": image_rows(4), "mask": image_rows(4), "fine": [0, 1, 2, 0], "coarse": [0, 1, 1, 0]}
    types = {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "fine": datasets.ClassLabel(names=["x", "y", "z"]),
        "coarse": datasets.ClassLabel(names=["p", "q"]),
    }
    data = load_data(f"hf:{make_parquet(tmp_path, {'train': columns, 'test': columns}, types)}")
    assert data.classes == ("x", "y", "z")
    assert data.notes == (
        "Column image gives the images; not used: mask.",
        "Column fine gives the labels; not used: coarse.",
    )


def test_columns_that_hold_no_images(tmp_path: Path):
    columns = {"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]}
    types = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "y"])}
    root = make_parquet(tmp_path, {"train": columns}, types)
    assert refused(f"hf:{root}") == (
        f"hf:{root}: no column of images (type Image) could be told among: text (string), label (ClassLabel). Expected "
        "one of images and one of labels. Cast the column with the datasets library's cast_column, or rename it to "
        "label."
    )


def test_columns_that_hold_no_labels(tmp_path: Path):
    columns = {"image": image_rows(4), "id": [1, 2, 3, 4], "same": [1, 1, 1, 1], "score": [0.0, 1.0, 0.0, 1.0]}
    types = {
        "image": datasets.Image(),
        "id": datasets.Value("int64"),
        "same": datasets.Value("int64"),
        "score": datasets.Value("float32"),
    }
    root = make_parquet(tmp_path, {"train": columns}, types)
    assert refused(f"hf:{root}") == (
        f"hf:{root}: no column of labels (type ClassLabel, or few integers or strings) could be told among: image "
        "(Image), id (int64), same (int64), score (float32). Expected one of images and one of labels. Cast the column "
        "with the datasets library's cast_column, or rename it to label."
    )


def test_labels_outside_the_class_range(tmp_path: Path):
    types = {"picture": datasets.Image(), "kind": datasets.Value("int64")}
    columns = {"picture": image_rows(5), "kind": [0, 1, 0, 7, -1]}
    good = {"picture": image_rows(4), "kind": [0, 1, 0, 1]}
    root = make_parquet(tmp_path, {"train": good, "test": columns}, types)
    # the card gives the column its classes; the files are older and disagree
    (root / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: picture\n    dtype: image\n  - name: kind\n    dtype:\n"
        "      class_label:\n        names:\n          '0': ant\n          '1': bee\n---\n"
    )
    assert refused(f"hf:{root}") == (
        f"hf:{root}, test: 2 labels are outside the class range, the first is 7 at image 3; expected 0 to 1. Correct "
        "these labels, or leave images without one (often marked -1) out."
    )


def test_test_labels_that_train_does_not_have(tmp_path: Path):
    types = {"picture": datasets.Image(), "kind": datasets.Value("string")}
    root = make_parquet(
        tmp_path,
        {
            "train": {"picture": image_rows(4), "kind": ["a", "b", "a", "b"]},
            "test": {"picture": image_rows(2), "kind": ["a", "c"]},
        },
        types,
    )
    assert "test: 1 labels are outside the class range, the first is 2 at image 1" in refused(f"hf:{root}")


def test_missing_labels_are_outside_the_class_range(tmp_path: Path):
    types = {"picture": datasets.Image(), "kind": datasets.Value("string")}
    columns = {"picture": image_rows(5), "kind": ["a", "b", None, "a", "b"]}
    root = make_parquet(tmp_path, {"train": columns}, types)
    assert "train: 1 labels are outside the class range, the first is -1 at image 2" in refused(f"hf:{root}")


def test_no_rows_at_all(tmp_path: Path):
    root = make_parquet(tmp_path, {"train": {"picture": [], "kind": []}}, TYPES)
    assert refused(f"hf:{root}").startswith(f"hf:{root}")


def test_a_truncated_image_in_a_parquet_file_is_left_out(tmp_path: Path):
    rows: list[Any] = image_rows(300)
    rows[7] = {"bytes": rows[7]["bytes"][:-60], "path": "seven.png"}
    rows[9] = {"bytes": b"no image", "path": None}
    rows[270] = None
    columns = {"picture": rows, "kind": [0, 1] * 150}
    small = {"picture": image_rows(2), "kind": [0, 1]}
    root = make_parquet(tmp_path, {"train": columns, "test": small}, TYPES)
    data = load_data(f"hf:{root}")
    assert len(data.train) == 297
    assert data.notes == (
        f"hf:{root}, train: 3 of 300 images can't be read: row 7, seven.png (image file is truncated), row 9 (not an "
        "image that Pillow can read), row 270 (no image here). They are left out.",
    )
    assert data.train.labels.tolist() == [label for row, label in enumerate([0, 1] * 150) if row not in (7, 9, 270)]


def test_many_rows_keep_their_order(tmp_path: Path):
    values = [number % 251 for number in range(1000)]
    rows = [{"bytes": encode(Image.new("L", (2, 2), value), "PPM"), "path": None} for value in values]
    columns = {"picture": rows, "kind": [number % 2 for number in range(1000)]}
    root = make_parquet(tmp_path, {"train": columns, "test": columns}, TYPES)
    data = load_data(f"hf:{root}")
    assert data.train.images[:, 0, 0, 0].tolist() == values
    assert data.train.labels.tolist() == columns["kind"]


@pytest.mark.parametrize("place", ["/no/such/folder", "./no", "~no", "a/b/c", ""])
def test_a_path_is_not_asked_of_the_hub(place: str):
    assert refused(f"hf:{place}") == (
        f"hf:{place}: there is no such folder; expected a folder with parquet files or images, or a name on the hub "
        f"like ylecun/mnist. Check the path, seen from {Path.cwd()}."
    )


def test_a_failure_of_the_hub_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch):
    failure = ConnectionError("no route")
    seen: list[tuple[str, bool]] = []

    def fail(name: str) -> None:
        seen.append((name, datasets.are_progress_bars_disabled()))
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        load_data("hf:some/set")
    assert str(caught.value) == (
        "hf:some/set: can't be loaded; tried a folder of this name (there is none), then the hub. ConnectionError: no "
        "route. Expected parquet files or images. Check the name and the network, or give a local folder: hf:PATH."
    )
    assert caught.value.__cause__ is failure
    assert seen == [("some/set", True)]


def test_what_comes_from_the_hub_is_read_likewise(monkeypatch: pytest.MonkeyPatch):
    made = datasets.Dataset.from_dict(
        {"picture": image_rows(10), "kind": [0, 1] * 5}, features=datasets.Features(TYPES)
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"train": made}))
    assert load_data("hf:some/set").train.labels.bincount().tolist() == [4, 4]


def test_progress_bars_that_were_off_stay_off(tmp_path: Path):
    root = make_parquet(tmp_path, {"train": {"picture": image_rows(6), "kind": [0, 1] * 3}}, TYPES)
    datasets.disable_progress_bars()
    try:
        load_data(f"hf:{root}")
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()


def test_a_folder_that_holds_nothing_to_read(tmp_path: Path):
    (tmp_path / "notes.rst").write_text("nothing")
    text = refused(f"hf:{tmp_path}")
    assert text.startswith(f"hf:{tmp_path}: can't be loaded; tried reading this folder. ")
    assert text.endswith("Check the name and the network, or give a local folder: hf:PATH.")


# Loader -------------------------------------------------------------------------------------------------------------


def loader_of(split: Split, batch_size: int = 4, **options: Any) -> Loader:
    channels = split.images.shape[1]
    return Loader(split, batch_size, (0.5,) * channels, (0.25,) * channels, **options)


@given(
    st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans(),
    st.sampled_from(["none", "crop", "crop+flip"]), st.integers(0, 2**40), st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_an_epoch_covers_each_image_once(
    count: int, batch: int, shuffle: bool, drop_last: bool, augment: Any, seed: int, epoch: int
):
    # constant images: no crop or flip changes them, so that each is known by its value
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    split = Split(images, torch.arange(count))
    if drop_last and count < batch:
        return
    loader = Loader(split, batch, (0.0,), (1.0,), augment, shuffle, drop_last, seed)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader) == (count // batch if drop_last else -(-count // batch))
    assert all(len(y) == batch for _, y in batches[:-1])
    labels = torch.cat([y for _, y in batches])
    values = torch.cat([x for x, _ in batches])
    assert torch.equal((values * 255).round(), labels.float().reshape(-1, 1, 1, 1).expand_as(values))
    assert len(labels.unique()) == len(labels) == (count // batch * batch if drop_last else count)
    if not shuffle:
        assert labels.tolist() == list(range(len(labels)))


@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_normalised_float_and_contiguous(augment: Any, channels: int):
    split = split_of(list(range(10)), side=16, channels=channels)
    mean, std = (0.1, 0.5, 0.7)[:channels], (0.2, 0.3, 0.4)[:channels]
    for x, y in Loader(split, 4, mean, std, augment, True, False, 0).epoch(0):
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.shape == (len(y), channels, 16, 16)
        assert x.is_contiguous()
        if augment == "none":
            scaled = split.images[y].double() / 255
            wanted = (scaled - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
            torch.testing.assert_close(x.double(), wanted, rtol=1e-5, atol=1e-6)


def windows(image: torch.Tensor, pad: tuple[int, int], flips: bool) -> list[bytes]:
    """Every crop of the reflected image, and its mirror image: what augmentation may give."""
    (height, width), (rows, columns) = image.shape[1:], pad
    padded = functional.pad(image[None].float(), (columns, columns, rows, rows), mode="reflect")[0].to(torch.uint8)
    crops = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * rows + 1)
        for left in range(2 * columns + 1)
    ]
    crops += [crop.flip(2) for crop in crops] if flips else []
    return [crop.contiguous().numpy().tobytes() for crop in crops]


@pytest.mark.parametrize(
    ("shape", "pad"), [((3, 16, 16), (2, 2)), ((1, 8, 8), (1, 1)), ((3, 16, 7), (2, 0)), ((3, 8, 24), (1, 3))]
)
@pytest.mark.parametrize("augment", ["crop", "crop+flip"])
def test_crops_are_those_of_the_reflected_image(shape: tuple[int, int, int], pad: tuple[int, int], augment: Any):
    image = torch.from_numpy(pixels(*shape))
    count = 600
    split = Split(image.expand(count, *shape).contiguous(), torch.zeros(count, dtype=torch.int64))
    loader = Loader(split, 100, (0.0,) * shape[0], (1.0,) * shape[0], augment, False, False, 0)
    given_images = [
        (one * 255).round().to(torch.uint8).contiguous().numpy().tobytes() for x, _ in loader.epoch(0) for one in x
    ]
    allowed = windows(image, pad, flips=augment == "crop+flip")
    assert set(given_images) == set(allowed)  # none but these, and all of them


@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
def test_seed_and_epoch_decide_the_batches(augment: Any):
    split = split_of([0, 1] * 16, side=16)

    def draw(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat([x for x, _ in loader_of(split, augment=augment, shuffle=True, seed=seed).epoch(epoch)])

    loader = loader_of(split, augment=augment, shuffle=True, seed=1)
    one, other = loader.epoch(0), loader.epoch(1)  # two epochs at once do not disturb each other
    mixed = [(next(one)[0], next(other)[0]) for _ in range(len(loader))]
    assert torch.equal(torch.cat([x for x, _ in mixed]), draw(1, 0))
    assert torch.equal(torch.cat([x for _, x in mixed]), draw(1, 1))
    assert not torch.equal(draw(1, 0), draw(1, 1))
    assert not torch.equal(draw(1, 0), draw(2, 0))


@pytest.mark.parametrize("augment", ["none", "crop+flip"])
def test_ranks_share_each_batch_and_a_later_start_gives_the_rest(augment: Any):
    loader = loader_of(split_of([0, 1] * 15, side=16), 8, augment=augment, shuffle=True, seed=1)
    parts = [replace(loader, ranks=Ranks(rank, 2)) for rank in range(2)]
    whole = list(loader.epoch(2))
    assert [len(y) for _, y in whole] == [8, 8, 8, 6]
    for (x, y), *shares in zip(whole, *(part.epoch(2) for part in parts), strict=True):
        assert torch.equal(x, torch.cat([share[0] for share in shares]))
        assert torch.equal(y, torch.cat([share[1] for share in shares]))
    rest = list(loader.epoch(2, start=3))
    assert len(rest) == 1
    assert torch.equal(rest[0][0], whole[3][0])


def test_augmentation_does_not_depend_on_the_batch_size():
    split = split_of([0, 1] * 16, side=16)
    one, two = (
        torch.cat([x for x, _ in loader_of(split, size, augment="crop+flip", shuffle=True, seed=1).epoch(3)])
        for size in (4, 7)
    )
    assert torch.equal(one, two)


def test_a_split_is_not_changed_by_its_loader():
    split = split_of([0, 1, 2], side=16)
    before = split.images.clone()
    for augment in ("none", "crop+flip"):
        for x, _ in loader_of(split, augment=augment).epoch(0):
            x.zero_()
    assert torch.equal(split.images, before)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"augment": "mixup"}, "Loader: augment 'mixup'; expected one of none, flip, crop, crop+flip."),
        (
            {"mean": (0.5,)},
            "Loader: mean (0.5,) and std (0.25, 0.25, 0.25) for images with 3 channels; expected one number per "
            "channel each, std above 0. Take both from the Data that the split came from.",
        ),
        (
            {"std": (0.25, 0.0, 0.25)},
            "Loader: mean (0.5, 0.5, 0.5) and std (0.25, 0.0, 0.25) for images with 3 channels; expected one number "
            "per channel each, std above 0. Take both from the Data that the split came from.",
        ),
        (
            {"batch_size": 5, "drop_last": True},
            "Loader: 4 images do not fill one batch of 5; expected at least one batch. Lower --batch-size.",
        ),
        (
            {"batch_size": 0},
            "Loader: 4 images do not fill one batch of 0; expected at least one batch. Lower --batch-size.",
        ),
    ],
)
def test_a_loader_refuses_what_gives_no_batches(options: dict[str, Any], text: str):
    usual: dict[str, Any] = {"batch_size": 2, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        Loader(split_of([0, 1, 0, 1]), **{**usual, **options})
