"""`path/to/file.py:FACTORY`: a network of the user's own.

The file's bytes are hashed and those same bytes are run, so a network is rebuilt from the code it came from or not at
all. The module stays in `sys.modules` under a name of its own, made from path and hash: pickle, `inspect` and
`torch.compile` look there. Files that it imports from its folder stay too, until a file of another folder is loaded:
that one's `import blocks` has to find its own.
"""

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from autoslim.errors import ModelError
from autoslim.models._base import BUILDERS, Builder, Factory, drop_none, read_parameters

_PREFIX = "autoslim_file_"
_HELPERS = "__helpers__"  # on a loaded module: what its folder added to sys.modules


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
    where = "or change `path` in the description to where it is now"
    data = _read(path, f"expected the one with sha256 {expected}. Put it back there, {where}")
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelError(
            f"Model file `{path}`: its sha256 is {found}; expected {expected}, the file that the network was built "
            f"from. Bring that version back, {where}; to build from the new code, start anew with `build_model`."
        )
    make = _pick(_load(path, data, found), path, name)
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


def _load(path: Path, data: bytes, sha256: str) -> ModuleType:
    """Runs `data`, the bytes of `path`, as a module; a file that was loaded before is not run again."""
    tag = hashlib.sha256(f"{path}:{sha256}".encode()).hexdigest()[:12]
    name = f"{_PREFIX}{re.sub(r'[^0-9a-zA-Z]', '_', path.stem)}_{tag}"
    if name in sys.modules:
        return sys.modules[name]
    _forget_helpers(path.parent)
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None, "a source file's loader always has one"
    module = module_from_spec(spec)
    before, folders = set(sys.modules), list(sys.path)
    sys.modules[name] = module
    importlib.invalidate_caches()  # a folder written to a moment ago
    sys.path.insert(0, str(path.parent))
    try:
        exec(loader.source_to_code(data, str(path)), vars(module))
    except BaseException as error:
        for half_run in [name, *_helpers(path.parent, before, folders)]:
            sys.modules.pop(half_run, None)
        if not isinstance(error, (Exception, SystemExit)):
            raise  # Ctrl-C
        raise ModelError(
            f"Model file `{path}`: importing it raised {type(error).__name__}: {error}; expected a file that only "
            'defines networks. Correct it; what should run as a script goes under `if __name__ == "__main__":`.'
        ) from error
    finally:
        sys.path[:] = folders
    setattr(module, _HELPERS, _helpers(path.parent, before, folders))
    return module


def _helpers(folder: Path, before: set[str], folders: list[str]) -> list[str]:
    """The modules that came from `folder` since `before`; none if it is among the folders searched anyway."""
    if any(Path(item).resolve() == folder for item in folders):
        return []

    def came_from_folder(name: str) -> bool:
        top = name.partition(".")[0]
        found = PathFinder.find_spec(top, [str(folder)])
        known = getattr(sys.modules.get(top), "__spec__", None)
        return found is not None and known is not None and found.origin == known.origin

    return [name for name in list(sys.modules) if name not in before and came_from_folder(name)]


def _forget_helpers(folder: Path) -> None:
    """Drops what files of other folders imported from there."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_PREFIX) and Path(str(module.__file__)).parent != folder:
            for helper in vars(module).pop(_HELPERS, ()):
                sys.modules.pop(helper, None)


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
