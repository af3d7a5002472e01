"""Shards, datasets of torch's, a file of the user's own: what they list, what is refused, and hostile files."""

import io
import pickle
import tarfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from autoslim.data import Encoded, Split, hold_out, load_data, load_datasets, make_loader
from autoslim.data._datasets import list_datasets
from autoslim.errors import DataError
from autoslim.tasks import Numbers


def png(value: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), value).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, samples: dict[str, tuple[bytes | None, bytes | None]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, (image, label) in samples.items():
            for suffix, content in (("png", image), ("json", b"{}"), ("cls", label)):
                if content is not None:
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return path


def refused(spec: str) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec)
    return str(caught.value)


# Shards --------------------------------------------------------------------------------------------------------------


def test_shards_are_read_at_any_place(tmp_path: Path):
    for shard in range(3):
        samples = {f"s{shard}{n}": (png(40 * shard + n), b"%d\n" % (n % 2)) for n in range(4)}
        write_shard(tmp_path / f"images-train-{shard:03}.tar", samples)
    write_shard(tmp_path / "images-val-000.tar", {"v0": (png(200), b"1"), "v1": (png(210), b"0"), "v2": (None, b"0")})
    data = load_data(f"webdataset:{tmp_path}")
    assert data.notes == (
        "There are no test shards: those with val in their names serve as test.",
        "1 samples have no image or no .cls, and are left out.",
    )
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 40, 41, 42, 43, 80, 81, 82, 83]
    assert data.train.labels.tolist() == [0, 1] * 6
    assert data.test.images[:, 0, 0, 0].tolist() == [200, 210]
    for pattern in ("images-train-{000..002}.tar", "*train*.tar", "images-train-{000,001,002}.tar"):
        other = load_data(f"webdataset:{tmp_path}/{pattern}")
        assert len(other.train) + len(other.test) == 12


ALIKE = (
    "All train images look nearly the same: the deviation is below one step of a pixel. (Transparency is dropped: what "
    "is drawn in it alone is lost.)"
)


def name_shards(folder: Path, *names: str) -> dict[str, int]:
    """Shards of six images each, all pixels of which tell the shard: the first is 10, the second is 20."""
    for number, name in enumerate(names, 1):
        write_shard(folder / f"{name}.tar", {f"{name}{n}": (png(10 * number), b"%d" % (n % 2)) for n in range(6)})
    return {name: 10 * number for number, name in enumerate(names, 1)}


@pytest.mark.parametrize("word", ["val", "valid", "validation", "VALIDATION"])
def test_shards_of_any_word_for_validation_serve_as_test(tmp_path: Path, word: str):
    values = name_shards(tmp_path, "a-train-0", f"a-{word}-0", "a-extra-0")
    data = load_data(f"webdataset:{tmp_path}")
    assert data.train.images.unique().tolist() == [values["a-train-0"]]
    assert data.test.images.unique().tolist() == [values[f"a-{word}-0"]]
    assert data.notes == (
        f"There are no test shards: those with {word.lower()} in their names serve as test.",
        f"Not used: 1 shard, neither train nor {word.lower()}: a-extra-0.tar.",
        ALIKE,
    )


def test_shards_of_other_names_are_not_trained_on_beside_train_shards(tmp_path: Path):
    values = name_shards(tmp_path, "train-0", "trainval-0", "retrain-0")
    data = load_data(f"webdataset:{tmp_path}")
    assert data.train.images.unique().tolist() == data.test.images.unique().tolist() == [values["train-0"]]
    assert data.notes[0] == "Not used: 2 shards, neither train nor test: retrain-0.tar, trainval-0.tar."
    assert len(data.train) + len(data.test) == 6


def test_shards_for_test_are_not_trained_on_where_none_is_called_train(tmp_path: Path):
    values = name_shards(tmp_path, "a-0", "a-1", "a-test-0", "a-val-0")
    data = load_data(f"webdataset:{tmp_path}")
    assert data.train.images.unique().tolist() == [values["a-0"], values["a-1"]]
    assert data.test.images.unique().tolist() == [values["a-test-0"]]
    assert data.notes == ("Not used: 1 shard, neither train nor test: a-val-0.tar.",)


def test_shards_that_all_have_a_word_for_validation_are_divided(tmp_path: Path):
    name_shards(tmp_path, "val-0", "val-1")
    data = load_data(f"webdataset:{tmp_path}")
    assert len(data.train) + len(data.test) == 12
    assert data.notes[0].startswith("No test split came along")


def test_samples_with_a_further_dot_in_their_names_are_told(tmp_path: Path):
    good = {f"s{n}": (png(20 * n), b"%d" % (n % 2)) for n in range(6)}
    dotted = {"t.v1": (png(1), b"0"), "t.v2": (png(2), b"1"), "s0.v2": (png(3), b"1")}
    write_shard(tmp_path / "a.tar", {**good, **dotted, "s1.mask": (png(4), None), "u.v1": (png(5), None)})
    data = load_data(f"webdataset:{tmp_path}")
    assert len(data.train) + len(data.test) == 6
    assert data.notes[:2] == (
        "2 samples have no image or no .cls, and are left out.",
        "Not used: 3 files with a further dot before .cls: t.v1.cls, t.v2.cls, s0.v2.cls. A sample's key ends at the "
        "first dot.",
    )
    write_shard(tmp_path / "a.tar", dotted)
    assert refused(f"webdataset:{tmp_path}") == (
        f"webdataset:{tmp_path}: no sample of train has an image and a .cls; expected KEY.jpg, or another image, and "
        "KEY.cls for each. 2 samples have no image or no .cls, and are left out. Not used: 3 files with a further dot "
        "before .cls: t.v1.cls, t.v2.cls, s0.v2.cls. A sample's key ends at the first dot. Write shards like that."
    )


def test_other_samples_without_an_image_or_a_class_are_counted_and_hidden_files_are_not(tmp_path: Path):
    write_shard(tmp_path / "a-train.tar", {f"s{n}": (png(20 * n), b"%d" % (n % 2)) for n in range(6)})
    write_shard(tmp_path / "a-test.tar", {"s0": (png(1), b"0"), "t": (None, None), "d/._s0": (png(1), b"0")})
    with tarfile.open(tmp_path / "a-train.tar", "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.DIRTYPE, "folder.png"), (tarfile.REGTYPE, "x.gif")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "s0.png"
            tar.addfile(info)
    assert load_data(f"webdataset:{tmp_path}").notes == ("3 samples have no image or no .cls, and are left out.",)
    write_shard(tmp_path / "a-test.tar", {"t": (png(1), None)})
    assert "no sample of test has an image and a .cls; expected" in refused(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("second", ["s0.png", "s0.jpg", "s0.cls"])
def test_a_second_image_or_class_of_a_key_is_refused(tmp_path: Path, second: str):
    path = write_shard(tmp_path / "a.tar", {f"s{n}": (png(n), b"%d" % (n % 2)) for n in range(6)})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(second)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"0"))
    assert refused(f"webdataset:{tmp_path}") == (
        f"webdataset:{tmp_path}: {path}, {second} is the second image or class of its key; expected one of each in a "
        "shard. Give each sample a key of its own, and further images another suffix (KEY.mask.png)."
    )


def test_shards_stay_encoded_for_crops_of_whole_pictures(tmp_path: Path):
    write_shard(tmp_path / "a.tar", {f"s{n}": (png(n, side=20), b"%d" % (n % 2)) for n in range(20)})
    data = load_data(f"webdataset:{tmp_path}", input_shape=(3, 8, 8), whole=True)
    assert isinstance(data.train, Encoded)
    assert isinstance(data.test, Split), "the test images are not augmented"
    assert "Train images are decoded anew each time, as crops are cut out of whole pictures." in data.notes
    same = load_data(f"webdataset:{tmp_path}", input_shape=(3, 20, 20), whole=True)
    assert isinstance(same.train, Split), "nothing is lost where all have the input's size"
    assert data.train.content(0) == png(int(data.train.rows[0]), side=20)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("x-{001..002}.tar", r"there is no shard .*x-001\.tar; expected tar files"),
        ("*.tar", "there is no shard of that name"),
    ],
)
def test_shards_that_are_not_there(tmp_path: Path, pattern: str, text: str):
    with pytest.raises(DataError, match=text):
        load_data(f"webdataset:{tmp_path}/{pattern}")


@pytest.mark.parametrize("label", [b"cat", b"", b"-1", b"1e3", b"9" * 5000])
def test_labels_that_are_no_numbers(tmp_path: Path, label: bytes):
    write_shard(tmp_path / "a.tar", {"s": (png(1), label)})
    assert "s.cls holds" in refused(f"webdataset:{tmp_path}")


def test_a_label_that_would_fill_the_memory_with_names(tmp_path: Path):
    write_shard(tmp_path / "a.tar", {"s": (png(1), b"0"), "t": (png(1), b"999999999")})
    assert "a label is 999999999; expected numbers from 0 to the classes less one" in refused(f"webdataset:{tmp_path}")


def test_a_compressed_shard_and_one_that_is_cut_off(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    assert "Expected a tar file that is not compressed" in refused(f"webdataset:{tmp_path}")
    whole = write_shard(tmp_path / "a.tar", {f"s{n}": (png(n), b"0") for n in range(4)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 6 * 512 + 20])
    assert "can't be read" in refused(f"webdataset:{tmp_path}")


def test_links_and_lies_about_sizes_are_not_followed(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(png(77))
    good = {f"s{n}": (png(n), b"%d" % (n % 2)) for n in range(10)}
    path = write_shard(tmp_path / "a.tar", good)
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"../link{kind.decode()}.png")
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(info)
    data = load_data(f"webdataset:{tmp_path}")
    assert len(data.train) + len(data.test) == 10
    for size, text in ((2**40, "is cut off"), (-512, "below 0|can't be read")):
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("s0.png")
            tar.addfile(info)
        header = tarfile.TarInfo("s0.png")
        header.size = size
        path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + path.read_bytes())
        with pytest.raises(DataError, match=text):
            load_data(f"webdataset:{tmp_path}")


# Datasets ------------------------------------------------------------------------------------------------------------


class Pictures(Dataset[Any]):
    """Items of Pillow's, without `targets`."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (index, 0, 0)), index % 3


class Renamed(Pictures):
    """`targets` that are not what the items say, as `target_transform` makes them of torchvision's datasets."""

    targets, classes = [0] * 12, ["a", "b", "c"]
    target_transform = staticmethod(lambda label: label)


class Relabelled(Pictures):
    """`targets` of twelve classes, and items whose labels are others from `first` on."""

    classes = tuple("abcdefghijkl")

    def __init__(self, first: int = 0) -> None:
        self.first, self.read, self.targets = first, 0, list(range(12))

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.read += 1
        image, label = super().__getitem__(index)
        return image, label if index >= self.first else self.targets[index]


@pytest.mark.parametrize(("first", "odd", "classes"), [(0, 3, 3), (11, 11, 11)])
def test_labels_are_those_of_the_items_where_targets_say_others(first: int, odd: int, classes: int):
    found = list_datasets("mine", Relabelled(first), None)
    assert found.train.labels.tolist() == [Relabelled(first)[index][1] for index in range(12)]
    assert found.classes == tuple(map(str, range(classes)))
    label = odd % 3
    assert found.notes == (
        f"mine, train: item {odd} has the label {label}, and `targets` says {odd}: all labels are those of the items.",
    )
    assert load_datasets(Pictures(), Relabelled()).notes[0].startswith("python, test: item 3 has the label 0")


def test_few_items_are_looked_at_where_targets_are_right():
    class Many(Relabelled):
        def __len__(self) -> int:
            return 1000

    given = Many()
    given.targets = [index % 3 for index in range(1000)]
    found = list_datasets("many", given, None)
    assert found.train.labels.tolist() == given.targets
    assert (given.read, found.notes) == (32, ())  # 16 items, twice


def test_datasets_and_loaders_of_torchs():
    data = load_datasets(Pictures(), Renamed())
    assert isinstance(data.train, Split)
    assert data.train.images[:, 0, 0, 0].tolist() == list(range(12))
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 2] * 4
    assert data.classes == ("0", "1", "2")
    assert load_datasets(Renamed()).classes == ("a", "b", "c")
    pixels = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 1, 8, 8)
    labels = torch.arange(12) % 3
    floats = DataLoader(TensorDataset(pixels / 255, labels), batch_size=5, shuffle=True)
    for given in (floats, TensorDataset(pixels[:, 0], labels)):
        other = load_datasets(given, TensorDataset(pixels, labels))
        assert torch.equal(other.train.images, pixels)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (TensorDataset(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])), "floats from 0 to 1, not normalised"),
        (TensorDataset(torch.zeros(4, 1, 8, 8)), r"expected \(image, label\)"),
        (TensorDataset(torch.zeros(4, 1, 8, 8), torch.tensor([0.5, 1, 0, 1])), "expected a whole number"),
        (TensorDataset(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 10**7])), "a label is 10000000"),
        (TensorDataset(torch.zeros(4, 1, 8, 8), torch.tensor([torch.nan] * 4)), "expected a whole number"),
        (TensorDataset(torch.zeros(4, 1, 8, 8), torch.tensor([torch.inf] * 4)), "expected a whole number"),
        (TensorDataset(torch.zeros(4, 3, 0, 0), torch.tensor([0, 1, 0, 1])), r"its image is Tensor .* \[3, 0, 0\]"),
        (iter([]), "has no length or no items by number"),
    ],
)
def test_datasets_of_another_kind_are_refused(dataset: Any, text: str):
    with pytest.raises(DataError, match=text):
        load_datasets(dataset)


def test_images_of_a_graph_and_of_bfloat16_are_taken():
    pixels, labels = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 8, 8) / 255, torch.arange(6) % 2
    plain = load_datasets(TensorDataset(pixels, labels)).train.images
    for given in (pixels.clone().requires_grad_(), pixels.bfloat16()):
        assert torch.equal(load_datasets(TensorDataset(given, labels)).train.images, plain)


def test_classes_that_no_train_image_is_of_are_told():
    pixels = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = load_datasets(
        TensorDataset(pixels, torch.arange(12) % 2 * 2 + 1), TensorDataset(pixels, torch.full((12,), 4))
    )
    assert data.num_classes == 5
    assert data.notes == (
        "No train image is of class 0, class 2, class 4: outputs for that are of no use. Labels are numbered from 0.",
    )


class Named(Pictures):
    def __init__(self, *classes: str) -> None:
        self.classes = list(classes)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ("ac", "only in train: b. Expected the same in both, as labels are numbers of them. Number the labels of both"),
        ("abcd", "only in test: d. Expected"),
        ("acb", "they are the same ones in another order. Expected"),
    ],
)
def test_train_and_test_with_different_classes_are_refused(classes: str, text: str):
    with pytest.raises(DataError, match=f"^python: train and test have different `classes`, {text}"):
        load_datasets(Named(*"abc"), Named(*classes))
    assert load_datasets(Named(*"abc"), Named(*"abc")).classes == load_datasets(Named(*"abc"), Pictures()).classes


class Flipped(Pictures):
    """A dataset that augments by itself: every other read mirrors the image."""

    reads = 0

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = Image.linear_gradient("L").resize((8, 8))
        self.reads += 1
        return image if self.reads % 2 else image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), index % 3


def test_a_dataset_that_augments_is_refused():
    for given in ((Flipped(),), (Pictures(), Flipped())):
        part = "train" if len(given) == 1 else "test"
        with pytest.raises(
            DataError, match=f"{part}, item 0: its image was another one when it was read again; expect"
        ):
            load_datasets(*given)
    with pytest.raises(DataError, match="Give the dataset without augmentation: --augment does that"):
        load_datasets(Flipped(), targets=Numbers())


class Opened(Dataset[Any]):
    """Images that are opened when their item is read, as many datasets give them; those that are there are counted."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.targets, self.open, self.most = path, [n % 2 for n in range(count)], 0, 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = Image.open(io.BytesIO(self.path.read_bytes()))
        self.open += 1
        self.most = max(self.most, self.open)
        weakref.finalize(image, self.close)
        return image, self.targets[index]

    def close(self) -> None:
        self.open -= 1


def test_few_images_of_a_dataset_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    (tmp_path / "a.png").write_bytes(png(7, side=20))
    given = Opened(tmp_path / "a.png", 600)
    data = load_datasets(given, input_shape=(1, 8, 8))
    assert len(data.train) == 480
    assert given.most < 20
    given.most = 0
    data = load_datasets(given, input_shape=(1, 8, 8), whole=True)
    assert isinstance(data.train, Encoded)
    assert sum(len(x) for x, _ in make_loader(data.train, 240, data.mean, data.std).epoch(0)) == 480
    assert given.most < 20
    assert given.open < 4


class Batches(BatchSampler):
    """Batches in a way of their own."""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sampler": SubsetRandomSampler(range(9))}, "SubsetRandomSampler"),
        ({"sampler": WeightedRandomSampler([1.0] * 12, 12)}, "WeightedRandomSampler"),
        ({"sampler": range(12)}, "range"),
        ({"sampler": RandomSampler(range(9))}, "RandomSampler"),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler(range(9)), 3, False)}, "SubsetRandomSampler"),
        ({"batch_sampler": Batches(range(12), 3, False)}, "Batches"),
        ({"batch_size": None, "sampler": SubsetRandomSampler(range(9))}, "SubsetRandomSampler"),
    ],
)
def test_a_loader_that_draws_in_a_way_of_its_own_is_refused(options: dict[str, Any], name: str):
    with pytest.raises(DataError, match=f"test: the loader draws its images by {name}; expected all 12 of the dataset"):
        load_datasets(Pictures(), DataLoader(Pictures(), **options))


def test_a_loader_over_all_images_is_taken_however_it_batches():
    for loader in (
        DataLoader(Pictures(), batch_size=5, shuffle=True, drop_last=True),
        DataLoader(Pictures(), batch_size=None),
    ):
        assert len(load_datasets(Pictures(), loader).test) == 12


def test_train_and_test_that_are_one_are_refused():
    both = Pictures()
    for test in (both, DataLoader(both)):
        with pytest.raises(DataError, match="python: train and test are the same dataset; expected test images that"):
            load_datasets(both, test)
    data = load_datasets(Subset(both, range(6)), Subset(both, range(6, 12)))
    assert (len(data.train), len(data.test)) == (6, 6)


def test_what_was_given_in_python_has_no_name():
    assert "were given in Python; expected them once more. Call run(config, data=(train, test))" in refused("python")


def test_a_file_of_the_users_own(tmp_path: Path):
    (tmp_path / "beside_mine.py").write_text("COUNT = 6\n")
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\nfrom beside_mine import COUNT\n"
        "def one():\n"
        "    return TensorDataset(torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8), torch.arange(COUNT) % 2)\n"
        "def both():\n    return one(), one()\n"
        "def pair():\n    return [one(), one()]\n"
        "def fails():\n    raise KeyError('x')\n"
    )
    for name in ("both", "pair"):
        data = load_data(f"{tmp_path}/mine.py:{name}")
        assert (len(data.train), len(data.test), data.num_classes) == (6, 6, 2)
    assert "KeyError: 'x'; expected a file with a function fails" in refused(f"{tmp_path}/mine.py:fails")
    assert "there is no such file" in refused(f"{tmp_path}/none.py:both")


# Where processes are not forked --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["digits", "folder", "webdataset", "hf", "memory", "python"])
def test_what_a_worker_needs_can_be_pickled(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if source == "webdataset":
        write_shard(tmp_path / "a.tar", {f"s{n}": (png(n), b"%d" % (n % 2)) for n in range(20)})
    for number in range(20 if source in ("folder", "hf") else 0):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[number % 2] / f"{number}.png").write_bytes(png(number))
    if source != "memory":
        monkeypatch.setattr("autoslim.data._listing._MEMORY", 0)
    named = source in ("folder", "webdataset", "hf")
    data = load_datasets(Pictures()) if source == "python" else load_data(f"{source}:{tmp_path}" if named else "digits")
    train, _ = hold_out(data.train, seed=0)
    for augment in ("crop+flip", "mobile", "randaugment"):
        loader: Any = make_loader(train, 4, data.mean, data.std, augment, shuffle=True, erase=0.5)
        here, there = (next(iter(each.epoch(1))) for each in (loader, pickle.loads(pickle.dumps(loader))))
        assert torch.equal(here[0], there[0])
        assert np.array_equal(here[1], there[1])
