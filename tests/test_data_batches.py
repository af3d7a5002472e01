"""Mixup, cutmix, erasing, and batches made by worker processes."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoslim.data import Encoded, Loader, Mix, Split, load_data, make_loader
from autoslim.data._augment import change_light, make_transform
from autoslim.data._encoded import seeded
from autoslim.errors import ConfigError, DataError
from autoslim.pipeline._batches import training_batches
from autoslim.ranks import Ranks
from autoslim.supernet import Supernet
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN
from autoslim.trace import trace_channels
from autoslim.train import TrainConfig, sandwich_step

RNG = np.random.default_rng(0)
MIXES = [Mix(0.8, 0.0, 2), Mix(0.0, 1.0, 2), Mix(0.8, 1.0, 2)]


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """torch's way of telling of a worker's death stays out of this process."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    assert signal.getsignal(signal.SIGCHLD) == before


def split_of(count: int, side: int = 16) -> Split:
    images = torch.from_numpy(RNG.integers(0, 256, (count, 3, side, side), dtype=np.uint8))
    return Split(images, torch.arange(count) % 2)


def loader_of(split: Any, augment: Any = "none", **options: Any) -> Any:
    settings: dict[str, Any] = {"shuffle": True, "seed": 3, **options}
    return make_loader(split, settings.pop("size", 7), (0.5,) * 3, (0.25,) * 3, augment, **settings)


def assert_same(one: Any, other: Any) -> None:
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for (x, y), (u, v) in zip(one, other, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
        assert x.is_contiguous()
        assert u.is_contiguous()


# Mixing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [Mix(1.0, 0.0, 6), Mix(0.0, 1.0, 6)])
def test_images_and_labels_are_mixed_in_one_proportion(mix: Mix):
    values = (torch.arange(6).view(6, 1, 1, 1) * 40).expand(6, 1, 8, 8).to(torch.uint8).contiguous()
    plain = Loader(Split(values, torch.arange(6)), 6, (0.0,), (1.0,))
    x, y = next(plain.epoch(0))
    mixed, soft = next(replace(plain, mix=mix).epoch(0))
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    share = soft[torch.arange(6), y]
    assert torch.all(share == share[0])
    assert 0 < share[0] < 1
    torch.testing.assert_close(soft[torch.arange(6), y[partner]], 1 - share)
    torch.testing.assert_close(
        mixed.mean((1, 2, 3)), share[0] * x.mean((1, 2, 3)) + (1 - share[0]) * x[partner].mean((1, 2, 3))
    )
    assert len(mixed[0].unique()) == (1 if mix.mixup else 2), "blended, or cut"


def test_both_kinds_come_and_the_draw_follows_from_seed_and_step():
    x, y = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    x[::2] = 1
    drawn = [Mix(1.0, 1.0, 2).apply(x, y, 5, step) for step in range(40)]
    cut = [len(image[0].unique()) == 2 and image[0].max() == 1 for image, _ in drawn]
    assert 10 < sum(cut) < 30
    again = Mix(1.0, 1.0, 2).apply(x, y, 5, 7)
    assert torch.equal(again[0], drawn[7][0])
    assert not torch.equal(drawn[7][0], drawn[8][0])


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("augment", ["crop+flip", "randaugment"])
def test_ranks_workers_and_a_later_start_give_the_batches_of_one_process(mix: Mix, augment: str):
    loader = loader_of(split_of(23), augment, mix=mix)
    whole = list(loader.epoch(1))
    assert [len(y) for _, y in whole] == [7, 7, 7, 2]
    assert whole[0][1].shape == (7, 2)
    parts = [loader_of(loader.split, augment, mix=mix, ranks=Ranks(rank, 3)).epoch(1) for rank in range(3)]
    for (x, y), *shares in zip(whole, *parts, strict=True):
        assert torch.equal(x, torch.cat([part for part, _ in shares]))
        assert torch.equal(y, torch.cat([part for _, part in shares]))
    assert_same(whole[2:], loader.epoch(1, start=2))
    if augment == "randaugment" and mix == MIXES[2]:
        assert_same(whole, loader_of(loader.split, augment, mix=mix, workers=2).epoch(1))


def test_too_few_pairs_for_the_processes_are_refused():
    with pytest.raises(DataError, match=r"batches of 3 can't be divided into pairs for 2 processes.*--batch-size"):
        loader_of(split_of(8), size=3, mix=MIXES[0], ranks=Ranks(0, 2))


def test_too_few_images_for_the_processes_are_refused():
    with pytest.raises(DataError, match=r"batches of 2 can't be divided among 3 processes; expected 3 .*--batch-size"):
        loader_of(split_of(8), size=2, ranks=Ranks(0, 3))


@pytest.mark.parametrize(("size", "mixup", "fits"), [(5, 0.0, False), (6, 0.0, True), (6, 0.2, False), (7, 0.2, True)])
def test_processes_that_share_statistics_have_as_many_parts(size: int, mixup: float, fits: bool):
    """Three: of 5 images two processes get 2 and 3, of 6 in pairs 2 and 4."""
    shared: dict[str, Any] = {"seed": 0, "ranks": Ranks(0, 2), "workers": 0}
    data, config = load_data("digits", limit=40), TrainConfig(batch_size=size, accumulate=3, mixup=mixup)
    cpu, synced = torch.device("cpu"), replace(config, sync_batchnorm=True)
    training_batches(data, data.train, config, cpu, **shared)
    training_batches(data, data.train, synced, cpu, **{**shared, "ranks": Ranks()})
    if fits:
        training_batches(data, data.train, synced, cpu, **shared)
        return
    told = rf"accumulate is 3, but of a batch of {size} images one of 2 processes gets 2"
    with pytest.raises(ConfigError, match=told):
        training_batches(data, data.train, synced, cpu, **shared)


def test_the_loss_takes_mixed_labels():
    task, logits, labels = TASKS["classification"], torch.eye(5, 3), torch.tensor([0, 1, 2, 1, 0])
    for smoothing in (0.0, 0.1):
        hard = task.loss(logits, labels, smoothing=smoothing)
        soft = task.loss(logits, torch.nn.functional.one_hot(labels, 3).float(), smoothing=smoothing)
        torch.testing.assert_close(hard, soft)


def test_mixed_labels_say_nothing_of_outputs_beyond_the_classes():
    task, labels = TASKS["classification"], torch.tensor([0, 1, 2, 1, 0])
    heads = [torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.eye(5, 3)]  # one of them has a spare
    mixed = torch.nn.functional.one_hot(labels, 3).float()
    for smoothing in (0.0, 0.1):
        hard = task.loss(heads, labels, smoothing=smoothing)
        torch.testing.assert_close(task.loss(heads, mixed, smoothing=smoothing), hard)


def test_only_the_widest_learns_from_mixed_labels():
    model = RandomCNN([("inverted", 8), ("concat", 9)], seed=1).train()
    x = torch.rand(4, 3, 8, 8)
    net = Supernet(model, trace_channels(model, x[:1]))
    seen: list[tuple[str, Any]] = []
    task = TASKS["classification"]

    class Spy:
        def loss(self, output: Any, labels: Any, **options: Any) -> Any:
            seen.append(("loss", labels))
            return task.loss(output, labels, **options)

        def teach(self, output: Any) -> Any:
            return task.teach(output)

        def distill(self, output: Any, taught: Any) -> Any:
            seen.append(("distill", taught))
            return task.distill(output, taught)

    classes = model(x).shape[1]
    images, labels = Mix(1.0, 0.0, classes).apply(x, torch.tensor([0, 1, 2, 0]), 0)
    sandwich_step(net, (images, labels), task=Spy(), seed=0)  # pyright: ignore[reportArgumentType]
    assert [what for what, _ in seen] == ["loss", "distill", "distill", "distill"]
    assert torch.equal(seen[0][1], labels)
    for _, taught in seen[1:]:
        assert taught is seen[1][1]
        assert not taught[0].requires_grad


# Erasing and light ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["none", "crop+flip", "mobile"])
def test_about_so_many_images_are_erased(augment: str):
    split = split_of(60)
    options: dict[str, Any] = {"size": 60, "shuffle": False}
    plain, erased = (next(iter(loader_of(split, augment, erase=erase, **options).epoch(0)))[0] for erase in (1e-9, 0.5))
    changed = (plain != erased).any(1)  # [N, H, W]
    assert 15 < int(changed.any(2).any(1).sum()) < 45
    for image in changed[changed.any(2).any(1)]:
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert int(image.sum()) == int(area), "a rectangle"


def test_light_moves_all_pixels_alike_along_the_axes_of_colour():
    image = Image.new("RGB", (4, 4), (100, 110, 120))
    with seeded("test", 1):
        changed = np.asarray(change_light(image)).astype(int)
    with seeded("test", 1):
        draws = np.random.normal(0, 0.1, 3)
    axes = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-3)
    wanted = np.array([100, 110, 120]) + 255 * axes @ (np.array([0.2175, 0.0188, 0.0045]) * draws)
    assert np.array_equal(changed, np.broadcast_to(np.rint(wanted), (4, 4, 3)))
    assert (changed != np.asarray(image)).any()


def test_the_largest_draw_of_each_operation_of_randaugment_works():
    (draw,) = [step for step in make_transform("randaugment", (3, 8, 8))._steps if type(step).__name__ == "RandAugment"]
    assert len(draw.ops) == 15
    with seeded("test", 0):
        for operation in draw.ops:
            operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 100, 0.0
            operation(Image.new("RGB", (8, 8), (10, 20, 30)))


def test_a_fault_of_the_augmentation_is_not_told_as_an_unreadable_image():
    def fail(image: Image.Image) -> Image.Image:
        raise ValueError("no such colour")

    loader = replace(loader_of(split_of(8), "mobile"), transform=fail)
    with pytest.raises(ValueError, match=r"^no such colour$"):
        next(iter(loader.epoch(0)))


# Workers -------------------------------------------------------------------------------------------------------------


def folder_of(root: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    for number in range(count):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "ab"[number % 2] / f"{number:02}.png")
    return root


def test_crops_are_cut_out_of_whole_pictures(tmp_path: Path):
    for number in range(10):
        image = Image.new("RGB", (64, 16), "black")
        image.paste("white", (0, 0, 20, 16))  # no centre crop of 16x16 shows it
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[number % 2] / f"{number}.png")
    data = load_data(f"folder:{tmp_path}", input_shape=(3, 16, 16), whole=True)
    assert isinstance(data.train, Encoded)
    for augment, wide in (("none", False), ("imagenet", True)):
        images = torch.cat([x for x, _ in loader_of(data.train, augment).epoch(0)])
        assert (images.unique().numel() > 1) == wide


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(tmp_path: Path, workers: int):
    data = load_data(f"folder:{folder_of(tmp_path, 10)}", input_shape=(3, 4, 4), whole=True)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"^[ab]/\d\d\.png can't be read: not an image that Pillow can read\. ") as told:
        list(loader_of(data.train, workers=workers, size=4).epoch(0))
    assert "\n" not in str(told.value)
