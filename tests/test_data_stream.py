"""Parquet files read in parts: what is read and how often, an order that suits row groups, failures, whole runs."""

import io
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import fsspec
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoslim.data import Data, Encoded, Split, draw_images, hold_out, load_data, make_loader
from autoslim.data._cache import FolderCache
from autoslim.data._order import Order
from autoslim.data._parquet import RowGroups
from autoslim.data._pieces import Pieces
from autoslim.data._random import make_generator
from autoslim.data.stream import list_stream
from autoslim.errors import DataError, RunFolderError
from autoslim.pipeline import RunConfig, read_config, reopen_job, resume, run
from autoslim.progress import Shown
from autoslim.ranks import Ranks
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)
TYPES = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee"])})
PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
SIDE, GROUP = 16, 10  # of an image, and images of a row group
LOG = list[tuple[str, int, int]]()  # path, first byte and number of bytes of each read
FAILURES = Counter[str]()  # how many reads of a path are still to fail
COMMIT = "0123456789abcdef" * 2 + "01234567"


def _note(path: str, start: int, count: int) -> None:
    LOG.append((path, start, count))
    if FAILURES[path]:
        FAILURES[path] -= 1
        raise ConnectionError("connection reset")


class _Noted(io.BytesIO):
    """A file that notes what is read of it."""

    path = ""

    def read(self, size: int | None = -1) -> bytes:
        at, content = self.tell(), super().read(size)
        _note(self.path, at, len(content))
        return content


class Counting(MemoryFileSystem):
    """Files in memory; each read is noted, and may be told to fail."""

    protocol = "counting"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("counting://", "memory://").replace("hf://", "memory://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **options)
        assert options["cache_type"] == "none"
        noted = _Noted(super()._open(path, mode).getvalue())
        noted.path = path.rpartition("/")[2]
        return noted


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for protocol in ("counting", "hf"):
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, protocol, Counting)
    monkeypatch.setattr("autoslim.data._parquet._PAUSE", 0.0)
    LOG.clear()
    FAILURES.clear()
    yield
    Counting.store.clear()
    Counting.pseudo_dirs[:] = [""]


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fits into memory, and three row groups are mixed."""
    monkeypatch.setattr("autoslim.data._listing._MEMORY", 0)
    monkeypatch.setattr("autoslim.data.stream._WINDOW", 3.5 * GROUP * _image_bytes(SIDE))
    monkeypatch.setattr("autoslim.data.stream._KEPT", 7 * GROUP * _image_bytes(SIDE))


def _image_bytes(side: int) -> int:
    return len(encode(np.zeros((side, side, 3), np.uint8)))


def encode(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")  # each as long as the others
    return buffer.getvalue()


def make_table(count: int, *, first: int = 0, side: int = SIDE, labels: Any = None) -> pa.Table:
    """Images that are their number, in two bytes of each pixel."""
    rows: list[Any] = []
    for number in range(first, first + count):
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = number % 256, number // 256
        rows.append({"bytes": encode(pixels), "path": None})
    kinds = [number % 2 for number in range(first, first + count)] if labels is None else labels
    return pa.table({"picture": rows, "kind": kinds}, schema=TYPES.arrow_schema)


def write(url: str, files: dict[str, pa.Table], group: int = GROUP) -> str:
    for name, table in files.items():
        with fsspec.open(f"{url}/{name}", "wb") as file:
            pq.write_table(table, file, row_group_size=group, **PLAIN)
    return url


def two_files(url: str, **options: Any) -> str:
    """120 train images in two files, and 20 test images."""
    tables = {"data/train-00000-of-00002.parquet": make_table(70, **options)}
    tables["data/train-00001-of-00002.parquet"] = make_table(50, first=70, **options)
    return write(url, tables | {"data/test-00000-of-00001.parquet": make_table(20, first=500, **options)})


def numbers_of(data: Data, x: torch.Tensor) -> list[int]:
    """Which images a batch holds."""
    pixels = (x[:, :2, 0, 0] * torch.tensor(data.std[:2]) + torch.tensor(data.mean[:2])) * 255
    return (pixels.round().long() @ torch.tensor([1, 256])).tolist()


def refused(spec: str) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec)
    return str(caught.value)


def groups_read() -> Counter[tuple[str, int, int]]:
    """Reads as long as a row group of images, one by one."""
    return Counter(each for each in LOG if each[2] > GROUP * _image_bytes(SIDE))


# What is found -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_a_folder_gives_what_hf_gives(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    two_files(str(tmp_path))
    place = {"folder": str(tmp_path), "file": tmp_path.as_uri(), "memory": "memory://a/set"}[kind]
    if kind == "memory":
        two_files(place)
    one, two = load_data(f"hf:{tmp_path}"), load_data(f"hf-stream:{place}")
    assert isinstance(two.train, Split)
    assert torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.test.images, two.test.images)
    assert torch.equal(one.train.labels, two.train.labels)
    assert (one.classes, one.mean, one.std, one.notes) == (two.classes, two.mean, two.std, two.notes)
    assert [name for name, _ in two.files] == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-00000-of-00001.parquet",
    ]
    monkeypatch.setattr("autoslim.data._listing._MEMORY", 0)
    left = load_data(f"hf-stream:{place}")
    (x, y), *rest = make_loader(left.train, 200, left.mean, left.std).epoch(0)
    assert not rest
    assert numbers_of(left, x) == list(range(120))
    assert torch.equal(y, one.train.labels)


def test_labels_are_read_without_the_images():
    write("counting://big", {"train-0.parquet": make_table(40, side=256)})  # 7.5 MiB
    with list_stream("counting://big") as listed:
        assert listed.train.labels.tolist() == [0, 1] * 20
    size = len(Counting.store["/big/train-0.parquet"].getvalue())
    assert sum(count for _, _, count in LOG) < size / 90
    assert sum(count for _, _, count in LOG if count != 2**16) < 5000, "beside the end of the file, with the footer"
    assert Counter(LOG).most_common(1)[0][1] == 1


def test_an_epoch_reads_each_row_group_once_and_labels_never_again(streamed: None):
    data = load_data(f"hf-stream:{two_files('counting://set')}", input_shape=(3, SIDE, SIDE))
    assert isinstance(data.train, Encoded)
    data = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE))  # with nothing kept yet of train
    loader = make_loader(data.train, 8, data.mean, data.std, shuffle=True)
    for epoch in range(3):
        LOG.clear()
        seen = [number for x, _ in loader.epoch(epoch) for number in numbers_of(data, x)]
        assert sorted(seen) == list(range(120))
        assert seen != sorted(seen)
        reads = groups_read()
        assert len(reads) == len(LOG) > 4, "nothing but row groups"
        assert set(reads.values()) == {1}
        assert len(reads) <= 12


def test_what_is_kept_is_bounded(streamed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = load_data(f"hf-stream:{two_files('counting://set')}", input_shape=(3, SIDE, SIDE))
    most = 0
    for _ in make_loader(data.train, 8, data.mean, data.std, shuffle=True).epoch(0):
        most = max(most, sum(path.stat().st_size for path in tmp_path.rglob("train/*.kept")))
    assert 4 * GROUP * _image_bytes(SIDE) < most <= 7 * GROUP * _image_bytes(SIDE)
    note = next(note for note in data.notes if "row group" in note)
    assert note == (
        "Images are fetched by row group when their turn comes, and about 30 images (3 row groups of 12) are mixed at "
        f"a time; at most 0 MiB of them are kept, in {tmp_path}."
    )


def test_files_in_the_order_of_their_classes_are_told(streamed: None):
    write("counting://set", {"train-0.parquet": make_table(120, labels=[0] * 60 + [1] * 60)})
    data = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE))
    note = next(note for note in data.notes if "row group" in note)
    assert note.endswith(
        " They seem to be sorted: a row group has images of 1.0 classes, and would have 2.0 by chance. So a window "
        "shows few classes at a time, which may cost accuracy: shuffle them before they are written."
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_batches_and_share_what_is_fetched(tmp_path: Path, streamed: None, workers: int):
    data = load_data(f"hf-stream:{two_files(str(tmp_path))}", input_shape=(3, SIDE, SIDE))
    options: dict[str, Any] = {"augment": "mobile", "shuffle": True, "seed": 3}
    alone = make_loader(data.train, 8, data.mean, data.std, **options)
    helped = make_loader(data.train, 8, data.mean, data.std, workers=workers, **options)
    for epoch in (0, 1):
        for (x, y), (u, v) in zip(alone.epoch(epoch), helped.epoch(epoch), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
    thawed: Any = pickle.loads(pickle.dumps(helped))
    assert torch.equal(next(iter(thawed.epoch(0)))[0], next(iter(alone.epoch(0)))[0])


def test_processes_on_one_machine_share_what_is_fetched(
    tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch
):
    two_files("counting://set")
    first: Any = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE)).train
    folder = first.listing.read.cache.folder.parent
    for other, shared in (((socket.gethostname(), str(folder)), True), ((socket.gethostname(), "/none"), False),
                          (("elsewhere", str(folder)), False)):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(Ranks, "gather", lambda self, value, other=other: [other, value])
            second: Any = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE)).train
        assert (second.listing.read.cache.folder.parent == folder) == shared


def test_an_epoch_that_starts_in_the_middle_is_the_tail_and_fetches_no_more(streamed: None):
    data = load_data(f"hf-stream:{two_files('counting://set')}", input_shape=(3, SIDE, SIDE))
    loader = make_loader(data.train, 8, data.mean, data.std, "mobile", shuffle=True)
    whole = list(loader.epoch(5))
    data = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE))
    read: Any = data.train.listing.read
    for path in read.cache.folder.glob("*.kept"):
        path.unlink()
    LOG.clear()
    loader = make_loader(data.train, 8, data.mean, data.std, "mobile", shuffle=True)
    for (x, y), (u, v) in zip(whole[12:], loader.epoch(5, start=12), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert sum(groups_read().values()) <= 6, "24 images of at most 3 + 3 row groups"


def test_a_part_of_the_images_is_drawn_from_few_row_groups(streamed: None):
    write("counting://set", {"train-0.parquet": make_table(1000)})
    data = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE))
    train, search = hold_out(data.train, most=20, seed=0)
    drawn = draw_images(train, 12, seed=0)
    assert search.labels.bincount().tolist() == [10, 10]
    for few in (search, drawn):
        assert len(np.unique(few.pieces.of)) <= 8  # of 80, where any order would take nearly each from its own
    again = draw_images(train, 12, seed=0)
    assert np.array_equal(drawn.rows, again.rows)
    assert not np.array_equal(drawn.rows, np.sort(drawn.rows))


# The order -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_no_more_pieces_than_the_window_are_open_at_once(sizes: list[int], window: int, seed: int):
    pieces = Pieces(np.repeat(np.arange(len(sizes)), sizes), window)
    order = pieces.shuffle(make_generator("test", seed))
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    at = pieces.of[order]
    first = {piece: int(np.flatnonzero(at == piece)[0]) for piece in range(len(sizes))}
    last = {piece: int(np.flatnonzero(at == piece)[-1]) for piece in range(len(sizes))}
    for place in range(len(order)):
        assert sum(first[piece] <= place <= last[piece] for piece in first) <= max(window, 1)


def test_windows_mix_evenly_up_to_both_ends():
    pieces = Pieces(np.arange(4000) // 20, window=50)
    orders = [pieces.shuffle(make_generator("test", seed)) for seed in range(20)]
    for part in (slice(0, 64), slice(2000, 2064), slice(-64, None)):
        mixed = np.mean([len(np.unique(pieces.of[order[part]])) for order in orders])
        assert mixed > 17
    firsts = [int(order[0]) for order in orders]
    assert len(set(firsts)) > 15


def test_an_order_without_pieces_is_the_one_there_always_was():
    order = Order(count=100, batch_size=100, shuffle=True, seed=7)
    ((_, chosen),) = order.batches(3)
    assert chosen.tolist() == torch.randperm(100, generator=make_generator("order", 7, 3)).tolist()
    windowed = replace(order, pieces=Pieces(np.arange(100) // 10, window=2))
    ((_, local),) = windowed.batches(3)
    assert sorted(local.tolist()) == list(range(100))
    assert len(np.unique(local[:10] // 10)) <= 3
    assert len(np.unique(chosen[:10] // 10)) > 4
    ((_, other),) = windowed.batches(4)
    assert local.tolist() != other.tolist()
    assert np.array_equal(next(windowed.batches(3))[1], local)


# What is kept --------------------------------------------------------------------------------------------------------


def test_what_was_not_asked_for_the_longest_time_goes_first(tmp_path: Path):
    cache, fetched = FolderCache(tmp_path / "new", limit=25), list[str]()

    def get(name: str) -> bytes:
        def fetch() -> bytes:
            fetched.append(name)
            return name.encode() * 10

        return bytes(cache.get(name, fetch))

    for name in "abacab":
        assert get(name) == name.encode() * 10
    assert "".join(fetched) == "abcb"
    held = cache.get("b", lambda: b"")
    assert get("d") == b"d" * 10
    assert get("e") == b"e" * 10
    assert bytes(held) == b"b" * 10, "still readable"
    assert sorted(path.stem for path in (tmp_path / "new").glob("*.kept")) == ["d", "e"]
    assert len(FolderCache(tmp_path / "one", limit=1).get("large", lambda: bytes(100))) == 100


def test_a_place_that_can_not_keep_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = FolderCache(tmp_path, limit=2**20)

    def fail(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(DataError, match=r"can't keep 0\.0 MiB that were fetched.*Make room there, or .* TMPDIR"):
        cache.get("a", lambda: b"x")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_read_that_fails_is_tried_again_and_then_told(streamed: None):
    two_files("counting://set")
    FAILURES["train-00001-of-00002.parquet"] = 4
    data = load_data("hf-stream:counting://set", input_shape=(3, SIDE, SIDE))
    assert FAILURES["train-00001-of-00002.parquet"] == 0
    FAILURES["test-00000-of-00001.parquet"] = 99
    with pytest.raises(DataError) as caught:
        list(make_loader(data.test, 8, data.mean, data.std).epoch(0))
    assert str(caught.value) == (
        "hf-stream:counting://set: data/test-00000-of-00001.parquet can't be read at byte 4, tried 5 times: "
        "ConnectionError: connection reset. Expected the file to stay within reach, and as it is, for the whole run. "
        "Check the network and your rights, then go on with --resume."
    )
    assert FAILURES["test-00000-of-00001.parquet"] == 94


def test_pauses_grow_and_a_missing_file_is_told_at_once(streamed: None, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    data = load_data(f"hf-stream:{two_files('counting://set')}", input_shape=(3, SIDE, SIDE))
    monkeypatch.setattr("autoslim.data._parquet._PAUSE", 1.0)
    monkeypatch.setattr("time.sleep", slept.append)
    FAILURES["test-00000-of-00001.parquet"] = 99
    with pytest.raises(DataError, match="tried 5 times"):
        list(make_loader(data.test, 8, data.mean, data.std).epoch(0))
    assert slept == [1, 2, 4, 8]
    del Counting.store["/set/data/test-00000-of-00001.parquet"]
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet can't be read at byte 4: FileNotFoundError"):
        list(make_loader(data.test, 8, data.mean, data.std).epoch(0))
    assert len(slept) == 4


def test_a_file_that_was_cut_or_is_none_is_told(tmp_path: Path):
    two_files(str(tmp_path))
    path = tmp_path / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert "train-00001-of-00002.parquet can't be read: ArrowInvalid" in refused(f"hf-stream:{tmp_path}")


def test_files_with_other_columns_are_told(tmp_path: Path):
    write(str(tmp_path), {"train-0.parquet": make_table(4), "train-1.parquet": make_table(4).select(["picture"])})
    text = refused(f"hf-stream:{tmp_path}")
    assert "train-1.parquet has no column kind, only picture; expected the same columns in all files" in text


def test_a_folder_without_parquet_files(tmp_path: Path):
    for place in (tmp_path, "memory://none"):
        assert refused(f"hf-stream:{place}").startswith(
            f"hf-stream:{place}: no parquet files; expected some, as only they can be read in parts."
        )
        (tmp_path / "train.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize("place", ["/no/such/folder", "./no", "~no", "a/b/c", ""])
def test_a_path_is_not_asked_of_the_hub(place: str):
    assert refused(f"hf-stream:{place}") == (
        f"hf-stream:{place}: there is no such folder; expected a folder with parquet files, a name on the hub like "
        f"ylecun/mnist, or a URL of a folder. Check the path, seen from {Path.cwd()}."
    )


def test_an_image_given_as_a_path_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "secret.bmp").write_bytes(encode(np.zeros((SIDE, SIDE, 3), np.uint8)))
    rows = [{"bytes": None, "path": str(tmp_path / "secret.bmp")}] * 6
    table = pa.table({"picture": rows, "kind": [0, 0, 0, 1, 1, 1]}, schema=TYPES.arrow_schema)
    text = refused(f"hf-stream:{write(str(tmp_path / 'set'), {'train-0.parquet': table})}")
    assert "can't be read" in text
    assert "no image here" in text


# Cards and the hub ---------------------------------------------------------------------------------------------------

CARD = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: here/a-*
  - split: validation
    path: here/b-*
- config_name: {other}
  data_files:
  - split: train
    path: {path}
---
"""


def with_card(url: str, text: str) -> str:
    write(url, {"here/a-0.parquet": make_table(20), "here/b-0.parquet": make_table(10), "x.parquet": make_table(8)})
    with fsspec.open(f"{url}/README.md", "w") as file:
        file.write(text)
    return url


def test_the_card_says_which_files_are_which_split(tmp_path: Path):
    url = with_card(str(tmp_path), CARD.format(other="default", path="here/b-*").replace("small", "x"))
    assert len(load_data(f"hf-stream:{url}").train) == 8
    url = with_card("memory://card", CARD.split("- config_name: {other}")[0] + "---\n")
    data = load_data(f"hf-stream:{url}")
    assert (len(data.train), len(data.test)) == (20, 10)
    assert data.notes == (
        "There is no test split: validation serves as test.",
        "All train images look nearly the same in channel 2, 3 of 3: the deviation is below one step of a pixel. "
        "(Transparency is dropped: what is drawn in it alone is lost.)",
    )


def test_a_card_that_does_not_decide_or_reaches_outside(tmp_path: Path):
    url = with_card(str(tmp_path / "in"), CARD.format(other="large", path="x*"))
    assert "its card names several data sets, small, large, and none of them as default" in refused(f"hf-stream:{url}")
    write(str(tmp_path / "out"), {"a.parquet": make_table(4)})
    url = with_card(str(tmp_path / "in"), CARD.format(other="default", path=tmp_path / "out" / "*"))
    assert "a.parquet, which is not in it; expected files of its own" in refused(f"hf-stream:{url}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub with one data set; what was asked for its commit is listed."""
    asked: list[tuple[str, str | None]] = []

    def dataset_info(self: Any, name: str, *, revision: str | None = None) -> Any:
        asked.append((name, revision))
        if name != "some/set":
            raise ConnectionError("no route")
        return SimpleNamespace(id="some/set", sha=COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    write(f"hf://datasets/some/set@{COMMIT}", {"data/train-00000-of-00001.parquet": make_table(40)})
    two_files(f"hf://datasets/some/set@{COMMIT}/inner")
    return asked


def test_what_is_on_the_hub_is_pinned_to_a_commit(hub: list[tuple[str, str | None]]):
    for place, pinned, revision in (
        ("some/set", f"some/set@{COMMIT}", None),
        ("some/set@main", f"some/set@{COMMIT}", "main"),
        ("some/set@refs/convert/parquet", f"some/set@{COMMIT}", "refs/convert/parquet"),
        ("hf://datasets/some/set@v1/inner", f"hf://datasets/some/set@{COMMIT}/inner", "v1"),
        ("hf://datasets/some/set@refs/pr/1/inner", f"hf://datasets/some/set@{COMMIT}/inner", "refs/pr/1"),
    ):
        data = load_data(f"hf-stream:{place}")
        assert data.name == f"hf-stream:{pinned}"
        assert data.train.labels.bincount().tolist() == ([60, 60] if "inner" in place else [16, 16])
        assert hub.pop() == ("some/set", revision)
        assert load_data(data.name).files == data.files
        assert not hub, "a commit needs no asking"


def test_a_failure_of_the_hub_is_told_with_its_cause(hub: list[tuple[str, str | None]]):
    assert refused("hf-stream:other/set") == (
        "hf-stream:other/set: can't be found; tried a folder of this name (there is none), then the hub. "
        "ConnectionError: no route. Expected a data set that your token is good for. Check the name, the network and "
        "`hf auth whoami`, or give a folder."
    )


# Whole runs ----------------------------------------------------------------------------------------------------------


def config_of(out: Path, data: str, **options: Any) -> RunConfig:
    train = TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=16, checkpoint_minutes=0, augment="imagenet")
    settings: dict[str, Any] = {"model": "zoo:resnet_digits?width=8", "data": data, "budget": ("macs<=80%",)}
    settings |= {"out": str(out), "baselines": "none", "workers": 0, "input": f"3,{SIDE},{SIDE}", "search_images": 12}
    return RunConfig(**settings | options, train=train)


WRITTEN = ("supernet.safetensors", "models/macs-80/model.safetensors", "search.jsonl")


def test_a_run_that_was_stopped_ends_in_the_same_weights(
    hub: list[tuple[str, str | None]], tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch
):
    whole = run(config_of(tmp_path / "whole", "hf-stream:hf://datasets/some/set@main/inner"), shown=QUIET)
    assert read_config(whole).data == f"hf-stream:hf://datasets/some/set@{COMMIT}/inner"
    assert (whole / "summary.json").exists()

    class Stop(Exception):
        pass

    for steps in (7, 13):  # of 4 that the plan times, 6 of the supernet and 7 of the retraining
        taken = 0

        def read(self: RowGroups, rows: Any, kept: Any = RowGroups.__call__, steps: int = steps) -> Any:
            nonlocal taken
            taken += len(rows) == 16  # a batch of a training
            if taken > steps:
                raise Stop
            return kept(self, rows)

        with monkeypatch.context() as patched:
            patched.setattr(RowGroups, "__call__", read)
            stopped = tmp_path / f"stopped-{steps}"
            with pytest.raises(Stop):
                run(config_of(stopped, "hf-stream:hf://datasets/some/set@main/inner"), shown=QUIET)
        hub.clear()
        resume(stopped, shown=QUIET)
        assert not hub, "it goes on with the commit it began with"
        for name in WRITTEN:
            assert (whole / name).read_bytes() == (stopped / name).read_bytes()


def test_search_images_are_fetched_once_and_kept(tmp_path: Path, streamed: None, monkeypatch: pytest.MonkeyPatch):
    folder = run(config_of(tmp_path / "run", f"hf-stream:{two_files('counting://set')}"), shown=QUIET)
    job = reopen_job(folder, shown=QUIET)
    assert isinstance(job.judges, Encoded)
    monkeypatch.setattr("autoslim.data._listing._MEMORY", 2**30)
    LOG.clear()
    kept = job.batches(job.judges, kept=True)
    assert isinstance(kept.loader.split, Split)
    fetched = len(LOG)
    assert fetched <= 6
    assert torch.equal(next(iter(kept))[0], next(iter(job.batches(job.judges)))[0])
    for _ in range(5):
        list(kept)
    assert len(LOG) <= fetched + 1


def test_files_that_have_changed_are_refused_by_name(tmp_path: Path, streamed: None):
    url = two_files(str(tmp_path / "set"))
    folder = run(config_of(tmp_path / "run", f"hf-stream:{url}", retrain="none"), shown=QUIET)
    (folder / "summary.json").unlink()
    path = tmp_path / "set" / "data" / "train-00001-of-00002.parquet"
    before = path.read_bytes()
    pq.write_table(make_table(50, first=700, labels=[0, 1] * 25), path, row_group_size=GROUP, **PLAIN)
    assert len(path.read_bytes()) == len(before)
    with pytest.raises(RunFolderError, match=r"data/train-00001-of-00002\.parquet was not there, or had other conten"):
        resume(folder, shown=QUIET)
    path.rename(path.with_name("train-00002-of-00002.parquet"))
    with pytest.raises(RunFolderError, match=r"data/train-00002-of-00002\.parquet was not there, or had other conten"):
        resume(folder, shown=QUIET)
    path.with_name("train-00002-of-00002.parquet").unlink()
    with pytest.raises(RunFolderError, match="there are 2 files, and were 3"):
        resume(folder, shown=QUIET)
    path.write_bytes(before)
    assert (resume(folder, shown=QUIET) / "summary.json").exists()
