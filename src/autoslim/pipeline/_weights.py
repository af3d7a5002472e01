"""Trained weights from a file, and their channels in the order of importance: what a supernet may start from."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autoslim.errors import ModelError
from autoslim.progress import say_many

_WRAPPERS = ("module.", "_orig_mod.", "module.")  # of DistributedDataParallel, compiled or not, and torch.compile
_INSIDE = ("state_dict", "model", "model_state_dict")  # where checkpoints keep the weights


def load_weights_(model: nn.Module, path: str, *, num_classes: int = 0) -> list[str]:
    """Puts trained weights into a network; all must fit, but those of a head for other classes, which stay as drawn.

    Args:
        model: At full width.
        path: A safetensors file, or one that `torch.save` wrote of a state dict; it may lie under "state_dict" or
            "model", and its names may have the prefix that DistributedDataParallel or torch.compile gives them. Files
            that hold code are refused (`weights_only`).
        num_classes: Of the network. Tensors of so many rows are a head's, where the file's have one other number.

    Returns:
        The names of the head's tensors that were left out.

    Raises:
        ModelError: The file can't be read, or holds other tensors than the network has.
    """
    found, wanted = _read(Path(path)), model.state_dict()
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in found) and not set(found) <= set(wanted):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    odd = sorted(set(wanted) ^ set(found))
    if odd:
        where = "the network has and the file has not" if odd[0] in wanted else "the file has and the network has not"
        raise ModelError(
            f"Weights {path}: {say_many(len(odd), 'tensor')} in only one of file and network; {odd[0]!r} {where}. "
            "Expected those of this very network. Check --model and its arguments."
        )
    differ = [name for name, tensor in wanted.items() if tensor.shape != found[name].shape]
    heads = {found[name].shape[:1] for name in differ}  # all of the same other number of classes
    for name in differ:
        shape, other = wanted[name].shape, found[name].shape
        if not (len(heads) == 1 and shape[:1] == (num_classes,) and shape[1:] == other[1:]):
            raise ModelError(
                f"Weights {path}: {name!r} has the shape {tuple(other)}; expected {tuple(shape)}. "
                "Check --model and its arguments. Only a head may differ, in its number of classes."
            )
    model.load_state_dict({**found, **{name: wanted[name] for name in differ}})
    return differ


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        what = "holds more than tensors, a whole module perhaps" if is_zipfile(path) else "is no file of torch.save's"
        raise ModelError(
            f"Weights {path} can't be read: it {what}, and what else is pickled is code, which is not run. Expected a "
            "safetensors file, or a state dict that torch.save wrote. Where the network is at hand, save that: "
            "torch.save(model.state_dict(), PATH)."
        ) from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(
            f"Weights {path} can't be read: {error}. Expected a safetensors file, or a state dict that torch.save "
            "wrote. Give another --from-weights."
        ) from error
    for key in _INSIDE:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict) or not all(isinstance(value, torch.Tensor) for value in data.values()):
        raise ModelError(
            f"Weights {path} hold {type(data).__name__}; expected a state dict, names to tensors. Save the network's "
            "`state_dict()`."
        )
    return data
