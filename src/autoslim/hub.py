"""Model folders on the Hugging Face hub, by huggingface_hub's own two functions; nothing that comes from there is run.

A folder from there may name a network of torchvision, timm or the zoo, and widths; it may not name a file of code.
"""

import contextlib
import re
from collections.abc import Generator, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoslim.errors import ConfigError, ModelError, RunFolderError
from autoslim.run_folder import read_json

PREFIX = "hf-hub:"
FILES = ("config.json", "widths.json", "model.safetensors", "metrics.json")
_CARD = "README.md"
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_LIBRARIES = ("torchvision", "timm", "zoo")  # builders of a network that is installed; "file" is code

_TAGS = {  # the hub's words for tasks
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}

_TEXT = """---
library_name: pytorch
tags: [autoslim, slim-network, {tag}]
---

# {model}, slimmed

Widths found by AutoSlim{budget}: `{model}` with the channels below, input {input}, {classes} classes.

| | |
|---|---|
{figures}

```python
import autoslim

model = autoslim.load("hf-hub:{name}")
```

Images: {resize}; then normalised with mean {mean} and standard deviation {std}.

| group | channels |
|---|---|
{widths}
"""


def fetch_folder(name: str) -> Path:
    """Downloads a model folder, or finds it in the hub's cache; returns where it lies.

    Args:
        name: "user/name", or "user/name@revision".

    Raises:
        ConfigError: No such form.
        RunFolderError: The hub does not have it, or a file of it is missing.
        ModelError: Its `config.json` names a file of code, or sets what is no number.
    """
    _check_name(name)
    repository, _, revision = name.partition("@")
    hub: Any = import_module("huggingface_hub")
    with _told(name, "downloaded"):
        folder = Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    _check_config(read_json(folder / "config.json", kind="SavedNetwork", version=2), f"{PREFIX}{name}")
    return folder


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Uploads a model folder, with a model card that tells its widths, costs and accuracy.

    Args:
        folder: Of one network: `config.json`, `widths.json`, `model.safetensors`, `metrics.json`.
        name: "user/name"; made if it is not there. You must be logged in (`hf auth login`).
        private: Whether a repository that is made now is for your own eyes.

    Returns:
        Its address.

    Raises:
        ConfigError: No such form of a name.
        RunFolderError: A file is missing or broken.
        ModelError: The network comes from a file of code, which nobody could load from there.
    """
    name = name.removeprefix(PREFIX)
    _check_name(name, revision=False)
    folder = Path(folder)
    config = read_json(folder / "config.json", kind="SavedNetwork", version=2)
    _check_config(config, str(folder))
    card = write_card(folder, name)
    missing = [file for file in FILES if not (folder / file).exists()]
    if missing:
        raise RunFolderError(
            f"`{missing[0]}` is missing in {folder}. Expected {', '.join(FILES)}. Give a model's folder."
        )
    hub: Any = import_module("huggingface_hub")
    with TemporaryDirectory() as scratch, _told(name, "uploaded"):
        for file in FILES:
            (Path(scratch) / file).write_bytes((folder / file).read_bytes())
        (Path(scratch) / _CARD).write_text(card, encoding="utf-8")
        hub.create_repo(name, exist_ok=True, private=private)
        told = hub.upload_folder(repo_id=name, folder_path=scratch, commit_message="Add a network slimmed by AutoSlim")
    return str(told)


def write_card(folder: Path, name: str) -> str:
    """The model card of a model folder, as Markdown."""
    config = read_json(folder / "config.json", kind="SavedNetwork", version=2)
    metrics = read_json(folder / "metrics.json", kind="Metrics")
    widths = read_json(folder / "widths.json", kind="Widths")["widths"]
    known = {"params": "parameters", "macs": "MACs", "memory": "memory (elements)", "latency": "latency (ms)"}
    known |= {"test_accuracy": "test accuracy", "test_score": f"test {metrics.get('metric', 'score')}"}
    figures = [f"| {known[key]} | {_say(key, metrics[key])} |" for key in known if key in metrics]
    arguments = ", ".join(f"{key}={value!r}" for key, value in config["model"]["arguments"].items())
    return _TEXT.format(
        name=name,
        model=f"{config['model']['builder']}:{config['model']['name']}",
        budget=f" under `{metrics['budget']}`" if "budget" in metrics else "",
        input=config["input"],
        classes=len(config["classes"]),
        tag=_TAGS.get(config.get("task", "classification"), "pytorch"),
        resize="no resize" if config["resize"] == "none" else config["resize"],
        figures="\n".join([*figures, f"| built with | {arguments or 'no arguments'} |"]),
        **config["normalisation"],
        widths="\n".join(f"| {group} | {width} |" for group, width in widths.items()),
    )


@contextlib.contextmanager
def _told(name: str, done: str) -> Generator[None, None, None]:
    errors: Any = import_module("huggingface_hub.errors")
    try:
        yield
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise RunFolderError(
            f"{PREFIX}{name} can't be {done}: {error}. Expected a name on the hub that your token is good for (none is "
            "needed to read what is public). Check the name and `hf auth whoami`."
        ) from error


def _say(key: str, value: float) -> str:
    return f"{value:.2%}" if key == "test_accuracy" else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _check_name(name: str, *, revision: bool = True) -> None:
    if not _NAME.fullmatch(name) or ("@" in name and not revision):
        raise ConfigError(
            f"Hub name {name!r}: expected user/name, for load also user/name@revision. Write for instance "
            f"{PREFIX}me/resnet18-half."
        )


def _check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuses a network that would be built by code from elsewhere, and attributes other than numbers."""
    model, attributes = config.get("model"), config.get("attributes")
    builder = model.get("builder") if isinstance(model, dict) else None
    if builder not in _LIBRARIES:
        raise ModelError(
            f"{where}: its `config.json` names the builder {builder!r}, which may be code; expected one of "
            f"{', '.join(_LIBRARIES)}. Code does not travel by the hub: share what "
            "`autoslim export --to python` writes."
        )
    layers = attributes.items() if isinstance(attributes, dict) else [("attributes", attributes)]
    for path, values in layers:
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            numbers = value if isinstance(value, list) else [value]
            if not name or name.startswith("_") or not all(isinstance(each, (int, float)) for each in numbers):
                raise ModelError(
                    f"{where}: its `config.json` sets `{path}.{name}` to {value!r}; expected numbers that follow the "
                    "widths. Take a folder that autoslim wrote."
                )
