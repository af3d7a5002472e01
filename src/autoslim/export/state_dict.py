"""The state dict alone, as `torch.load(path, weights_only=True)` reads it; loaded back into emptied layers."""

from pathlib import Path

import torch
from torch import nn

from autoslim.export._base import FORMATS, Format, Options, Served
from autoslim.extract import copy_model


def _write(model: nn.Module, x: torch.Tensor, path: Path, options: Options) -> None:
    torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


def _open(path: Path, model: nn.Module) -> Served:
    empty = copy_model(model)
    for tensor in empty.state_dict().values():
        tensor.zero_()
    empty.load_state_dict(torch.load(path, weights_only=True))
    return empty


FORMATS.register("state-dict", Format(suffix=".pt", write=_write, open=_open, shaped=False))
