"""Where tensors lie: in what a network puts out, in which memory, and how they go into a file."""

from collections.abc import Mapping, Sequence, Set
from types import ModuleType

import torch
from torch import nn


def for_disk(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, dense, and none in the memory of another, which safetensors refuses.

    >>> x = torch.arange(4.0)
    >>> {name: tensor.tolist() for name, tensor in for_disk({"x": x, "column": x.view(4, 1)[:2]}).items()}
    {'x': [0.0, 1.0, 2.0, 3.0], 'column': [[0.0], [1.0]]}
    """
    taken, held = dict[str, torch.Tensor](), set[int]()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        taken[name] = one.clone() if one.untyped_storage().data_ptr() in held else one
        held.add(one.untyped_storage().data_ptr())
    return taken


def storage_of(tensor: torch.Tensor) -> int:
    """Which memory a tensor is in: its views have the same. Also on the meta device, where memory has no address.

    >>> x = torch.zeros(4, device="meta")
    >>> storage_of(x) == storage_of(x[1:]) != storage_of(torch.zeros(4, device="meta"))
    True
    """
    return tensor.untyped_storage()._cdata


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether the strides are those of channels-last memory.

    Operators go by these, where a weight of one input channel counts as contiguous in both layouts.

    >>> weight = torch.zeros(8, 1, 3, 3)
    >>> weight.is_contiguous(memory_format=torch.channels_last), is_channels_last(weight)
    (True, False)
    """
    if tensor.dim() != 4:
        return False
    _, channels, height, width = tensor.shape
    return tensor.stride() == (height * width * channels, 1, width * channels, channels)


def output_tensors(out: object) -> list[torch.Tensor]:
    """The tensors that a network puts out, also those in its own objects: mappings, sequences, what has attributes."""
    found: list[torch.Tensor] = []
    seen: dict[int, object] = {}  # holds what it has seen: the id of an object that is gone may come again
    todo: list[object] = [out]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, (str, bytes, type, ModuleType, nn.Module)):
            continue
        seen[id(value)] = value
        if isinstance(value, torch.Tensor):
            found.append(value)
        else:
            todo.extend(reversed(_parts(value)))
    return found


def _parts(value: object) -> list[object]:
    parts: list[object] = []
    if isinstance(value, Mapping):
        parts += value.values()
    elif isinstance(value, (Sequence, Set)) and not isinstance(value, range):
        parts += value
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for own in slots for name in ([own] if isinstance(own, str) else own)]
    return [*parts, *getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in names)]
