"""Parquet files behind a server, read with the file systems that users have: the hub's own, and plain HTTP."""

import io
import json
import re
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import datasets
import fsspec
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from autoslim.data import Encoded, load_data, make_loader
from autoslim.errors import DataError

TYPES = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee"])})
COMMITS = {"main": "a" * 40, "refs/convert/parquet": "b" * 40}
CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/part-*\n---\nText.\n"
SIDE = 8


def make_file(count: int, first: int) -> bytes:
    rows: list[Any] = []
    for number in range(first, first + count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((SIDE, SIDE, 3), number, np.uint8)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{number}.png"})
    kinds = [number % 2 for number in range(first, first + count)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"picture": rows, "kind": kinds}, schema=TYPES.arrow_schema), sink, row_group_size=5)
    return sink.getvalue()


class _Server(ThreadingHTTPServer):
    """A hub with the data set some/set, and a plain server of the same files below /files/."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {
            "README.md": CARD,
            "data/part-0.parquet": make_file(20, 0),
            "data/part-1.parquet": make_file(15, 20),
        }
        self.asked: list[tuple[str, str]] = []  # path and range of each GET
        self.failing = 0  # ranges that are still to be refused

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, span = unquote(urlparse(self.path).path), self.headers.get("Range", "")
        self.server.asked.append((path, span))
        info = re.fullmatch(r"/api/datasets/some/set(?:/revision/(.+))?", path)
        tree = re.fullmatch(r"/api/datasets/some/set/tree/([0-9a-f]{40})(?:/(.*))?", path)
        file = re.fullmatch(r"/(?:datasets/some/set/resolve/[0-9a-f]{40}|files)/(.+[^/])", path)
        if info and (info[1] or "main") in {**COMMITS, **{commit: "" for commit in COMMITS.values()}}:
            commit = COMMITS.get(info[1] or "main", info[1])
            self.answer(200, json.dumps({"id": "some/set", "sha": commit, "siblings": []}).encode())
        elif tree:
            recursive = "recursive=true" in self.path.lower()
            self.answer(200, json.dumps(self.list_tree(tree[2] or "", recursive)).encode())
        elif file and file[1] in self.server.files:
            self.send_part(self.server.files[file[1]], span)
        elif path.rstrip("/") in ("/files", "/files/data"):
            inner = path.rstrip("/").removeprefix("/files").removeprefix("/")
            names = {name.removeprefix(inner).lstrip("/") for name in self.server.files if name.startswith(inner)}
            entries = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in names})
            self.answer(200, "".join(f'<a href="{name}">{name}</a>\n' for name in entries).encode(), "text/html")
        else:
            self.answer(404, b"{}")

    def list_tree(self, inner: str, recursive: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [] if inner else [{"type": "directory", "path": "data", "oid": "d", "size": 0}]
        for name, content in self.server.files.items():
            if name.startswith(inner) and (recursive or name.count("/") == inner.count("/") + bool(inner)):
                found.append({"type": "file", "path": name, "oid": "f", "size": len(content)})
        return found

    def send_part(self, content: bytes, span: str) -> None:
        if span and self.server.failing:
            self.server.failing -= 1
            self.answer(403, b"{}")
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
        part = content[int(match[1]) : int(match[2]) + 1] if match else content
        self.answer(206 if match else 200, part, start=int(match[1]) if match else 0, whole=len(content))

    def answer(
        self, code: int, content: bytes, kind: str = "application/octet-stream", *, start: int = 0, whole: int = 0
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{whole}"')
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{whole}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.address)
        template = f"{made.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", made.address)
        monkeypatch.setattr("autoslim.data._parquet._PAUSE", 0.0)
        monkeypatch.setattr("autoslim.data._listing._MEMORY", 0)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield made
        made.shutdown()
        thread.join()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    fsspec.filesystem("http").clear_instance_cache()


def spans(server: _Server) -> list[tuple[str, str]]:
    return [each for each in server.asked if each[1]]


@pytest.mark.parametrize("place", ["some/set", "some/set@refs/convert/parquet", "hf://datasets/some/set@main", "http"])
def test_files_behind_a_server_are_read_by_their_parts(server: _Server, place: str):
    place = f"{server.address}/files" if place == "http" else place
    data = load_data(f"hf-stream:{place}", input_shape=(3, SIDE, SIDE))
    assert isinstance(data.train, Encoded)
    commit = COMMITS["refs/convert/parquet" if "convert" in place else "main"]
    assert data.name == f"hf-stream:{place}" if place.startswith("http") else f"hf-stream:some/set@{commit}"
    assert len(data.train) + len(data.test) == 35
    loader = make_loader(data.train, 4, data.mean, data.std, shuffle=True, workers=0)
    helped = make_loader(data.train, 4, data.mean, data.std, shuffle=True, workers=2)
    for path in data.train.listing.read.cache.folder.glob("*.kept"):  # pyright: ignore[reportAttributeAccessIssue]
        path.unlink()
    server.asked.clear()
    batches = list(helped.epoch(0))
    read = spans(server)
    assert 4 < len(read) == len(set(read)) <= 7, "a row group once, also by two workers"
    assert all(path.endswith(".parquet") for path, _ in read)
    for (x, y), (u, v) in zip(loader.epoch(0), batches, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert len(spans(server)) == len(read), "what the workers fetched is kept"


def test_a_server_that_refuses_is_asked_again_and_then_told(server: _Server):
    server.failing = 3
    data = load_data("hf-stream:some/set", input_shape=(3, SIDE, SIDE))
    assert server.failing == 0
    for path in data.train.listing.read.cache.folder.glob("*.kept"):  # pyright: ignore[reportAttributeAccessIssue]
        path.unlink()
    server.failing = 999
    for workers in (0, 1):
        loader = make_loader(data.train, 4, data.mean, data.std, workers=workers)
        with pytest.raises(DataError, match=r"data/part-0\.parquet can't be read at byte 4, tried 5 times: HfHubHTTPE"):
            list(loader.epoch(0))


def test_a_hub_that_does_not_know_the_name(server: _Server):
    with pytest.raises(DataError, match=r"hf-stream:no/set: can't be found; .* HfHubHTTPError: [^\n]*\. Expected"):
        load_data("hf-stream:no/set")
