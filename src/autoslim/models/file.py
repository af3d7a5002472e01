"""`path/to/file.py:FACTORY`: a network of the user's own.

The file's bytes are hashed and those same bytes are run, so a network is rebuilt from the code it came from or not at
all.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from autoslim._code import run_code
from autoslim.errors import ModelError
from autoslim.models._base import BUILDERS, Builder, Factory, drop_none, read_parameters

_PLACE = (
    "where that version lies as `path` into the description (of a saved network: under `model` in the `config.json` of "
    "its folder)"
)


def _names() -> list[str]:
    return []


def _locate(name: str) -> dict[str, Any]:
    text, _, factory = name.rpartition(":")
    path = Path(text).expanduser().resolve()
    data = _read(path, "expected a Python file. Check the path; it starts from the current folder")
    sha256 = hashlib.sha256(data).hexdigest()
    return {"name": f"{path.name}:{factory}", "path": str(path), "factory": factory, "sha256": sha256}


def _factory(config: Mapping[str, Any]) -> Factory:
    path, name, expected = Path(config["path"]).resolve(), config["factory"], config["sha256"]
    data = _read(path, f"expected the one with sha256 {expected}. Put it back there, or write {_PLACE}")
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelError(
            f"Model file `{path}`: it has changed since the network was built from it: its sha256 is {found}; expected "
            f"{expected}. Put it back as it was, from version control or a copy, or write {_PLACE}. If you know that "
            "the new code builds the same network, layers and forward alike, write its sha256 there. A network that "
            "is another one needs a new run."
        )
    make = _pick(_load(path, data), path, name)
    return Factory(label=f"{path.name}:{name}", make=make, source=make)


def _inputs(factory: Factory, num_classes: int | None, in_channels: int | None) -> dict[str, Any]:
    names, rest = read_parameters(factory.source)
    inputs = drop_none(num_classes=num_classes) if rest or "num_classes" in names else {}
    channels = [name for name in ("in_channels", "in_chans") if name in names][:1]
    return {**inputs, **{name: in_channels for name in channels if in_channels is not None}}


def _read(path: Path, advice: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"Model file `{path}`: {error.strerror or error}; {advice}.") from error


def _pick(module: ModuleType, path: Path, name: str) -> Any:
    """The factory `name` of a loaded file."""
    make = getattr(module, name, None)
    if callable(make) and not isinstance(make, nn.Module):
        return make
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    found = "nothing of that name" if make is None else f"a {type(make).__name__}"
    has = ", ".join(f"`{key}`" for key in own if key != name) or "none"
    raise ModelError(
        f"Model file `{path}`: `{name}` is {found}; expected a function or class that makes the network. "
        f"The file has: {has}. Name one of them after the `:`, or add one."
    )


def _load(path: Path, data: bytes) -> ModuleType:
    try:
        return run_code(path, data)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"Model file `{path}`: importing it raised {type(error).__name__}: {error}; expected a file that only "
            'defines networks. Correct it; what should run as a script goes under `if __name__ == "__main__":`.'
        ) from error


BUILDERS.register(
    "file",
    Builder(
        names=_names,
        locate=_locate,
        factory=_factory,
        inputs=_inputs,
        keys=("name", "path", "factory", "sha256"),
    ),
)
