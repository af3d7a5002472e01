"""A slim network on disk and back: `config.json`, `widths.json`, `model.safetensors`, `metrics.json`.

The folder needs nothing of this library, unless the network was rewritten: `config.json` names the builder, the integer
attributes that follow the widths and how images are prepared; the tensors in `model.safetensors` have their final
shapes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from autoslim._tensors import for_disk
from autoslim.errors import RunFolderError
from autoslim.extract import replace_tensors_, set_attributes_
from autoslim.hub import PREFIX, fetch_folder
from autoslim.models import rebuild_model
from autoslim.rewrite import RewrittenNetwork, rewrite_network
from autoslim.run_folder import read_json, whole_folder, write_json, write_whole
from autoslim.widths import Widths

_TYPE, _VERSION = "SavedNetwork", 2
_BUFFERS = "buffers"  # told in the file: each buffer's name, and whether a state dict holds it


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, shared ones once, dense and on the CPU."""
    return for_disk({**dict(model.named_parameters()), **dict(model.named_buffers())})


def save_tensors(path: Path, model: nn.Module) -> None:
    """Writes a model's tensors whole or not at all."""
    state = model.state_dict()
    buffers = {name: name in state for name, _ in model.named_buffers()}
    # Written as bytes: the library's own writer leaves files that only their owner can read.
    data = save(tensors_of(model), {_BUFFERS: json.dumps(buffers)} if buffers else None)
    write_whole(path, lambda aside: aside.write_bytes(data))


def load_tensors_(path: Path, model: nn.Module) -> None:
    """Puts a safetensors file's tensors into `model`, whatever their shape; RunFolderError if they don't belong."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            buffers: dict[str, bool] = json.loads((file.metadata() or {}).get(_BUFFERS, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise RunFolderError(
            f"`{path.name}` in {path.parent} can't be read: {error}. Expected a safetensors file. "
            "Restore it or run again."
        ) from error
    wanted = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    for name in set(buffers) - wanted:  # not there before the first forward pass
        if not buffers[name]:
            tensors.pop(name, None)  # which makes it anew
        elif (module := _without(model, name)) is not None:
            module.register_buffer(name.rpartition(".")[2], tensors[name])
            wanted.add(name)
    if wanted != set(tensors):
        odd = sorted(wanted ^ set(tensors))[0]
        raise RunFolderError(
            f"`{path.name}` in {path.parent} does not belong to this {type(model).__name__}: "
            f"{odd!r} is in only one of the two. Expected the same parameters and buffers. Rebuild the model as "
            "`config.json` says."
        )
    replace_tensors_(model, tensors)


def _without(model: nn.Module, name: str) -> nn.Module | None:
    """The module that a tensor of this name would belong to, if it is there and has nothing of this name yet."""
    path, _, own = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    return None if module is None or hasattr(module, own) else module


def save_network(
    folder: Path,
    model: nn.Module,
    *,
    builder: Mapping[str, Any],
    attributes: Mapping[str, Mapping[str, Any]],
    widths: Widths,
    preparation: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Writes a slim network's folder whole or not at all.

    Args:
        folder: Must not exist.
        model: The extracted network.
        builder: From `describe_model`: who builds the full-width network, with which arguments.
        attributes: From `ChannelGraph.attributes`: what to set on it.
        widths: Its channels per group.
        preparation: Classes, input shape, normalisation, resize: what images need.
        metrics: Its costs and accuracies.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as aside:
        kind = {"_type": _TYPE, "_version": _VERSION, "rewritten": isinstance(model, RewrittenNetwork)}
        config = {**kind, "model": dict(builder), **preparation, "attributes": attributes}
        write_json(aside / "config.json", config)
        write_json(aside / "widths.json", widths.to_json())
        save_tensors(aside / "model.safetensors", model)
        write_json(aside / "metrics.json", {"_type": "Metrics", "_version": 1, **metrics})


def load(folder: str | Path) -> nn.Module:
    """The network in a model folder of a run, in eval mode: a plain module of its own class.

    A factory file named in `config.json` is code and is run, if its sha256 is still the recorded one; the error says
    what can be done where it is not. From the hub such a folder is refused.

    Args:
        folder: On the disk, or "hf-hub:user/name" (also "hf-hub:user/name@revision"), which is downloaded.

    Raises:
        RunFolderError: A file is missing, broken, or not of this kind.
        ModelError: The builder is gone or has changed, or is code from the hub.
    """
    name = str(folder)
    folder = fetch_folder(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else Path(folder)
    config = read_json(folder / "config.json", kind=_TYPE, version=_VERSION)
    model = rebuild_model(config["model"])
    if config["rewritten"]:
        model = rewrite_network(model, torch.zeros(config["input"]))
    load_tensors_(folder / "model.safetensors", model)
    set_attributes_(model, config["attributes"])
    return model.eval()
