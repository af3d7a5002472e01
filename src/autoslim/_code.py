"""A Python file of the user's own, run as a module: it is code, so only what the user names comes here.

The module stays in `sys.modules` under a name of its own, made from path and contents: pickle, `inspect` and
`torch.compile` look there. Files that it imports from its folder stay too, until a file of another folder is loaded:
that one's `import blocks` has to find its own.
"""

import hashlib
import importlib
import re
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

_PREFIX = "autoslim_file_"
_HELPERS = "__helpers__"  # on a loaded module: what its folder added to sys.modules


def run_code(path: Path, data: bytes) -> ModuleType:
    """Runs `data`, the bytes of `path`, as a module; a file that was loaded before is not run again.

    What it raises comes through, and nothing of it stays.
    """
    tag = hashlib.sha256(f"{path}:{hashlib.sha256(data).hexdigest()}".encode()).hexdigest()[:12]
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
    except BaseException:
        for half_run in [name, *_helpers(path.parent, before, folders)]:
            sys.modules.pop(half_run, None)
        raise
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
