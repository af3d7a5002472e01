"""Where tensors lie: in which memory, and how they go into a file."""

from collections.abc import Mapping

import torch


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
