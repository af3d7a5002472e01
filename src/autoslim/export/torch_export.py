"""torch.export: the network as a graph of ATen operators, `.pt2`; loaded back by torch alone, without its classes."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim.errors import ModelError
from autoslim.export._base import FORMATS, Format, Options, Served


def _write(model: nn.Module, x: torch.Tensor, path: Path, options: Options) -> None:
    shapes: Any = ({0: torch.export.Dim("batch")},) if options.dynamic else None
    first = next(iter(inspect.signature(model.forward).parameters.values()))
    if shapes is not None and first.kind is first.VAR_POSITIONAL:  # forward(*args), as a rewritten network has
        shapes = (shapes,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on what it will rename
        try:
            torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), path)
        except Exception as error:  # it raises anything
            told = (str(error).strip().splitlines() or [""])[0]
            raise ModelError(
                f"{type(model).__name__} can't be exported by torch.export: {type(error).__name__}: {told}. Expected "
                "a network whose shapes and branches follow from the input's shape. Try --to onnx or --to state-dict."
            ) from error


def _open(path: Path, _: nn.Module) -> Served:
    return torch.export.load(path).module()


FORMATS.register("torch-export", Format(suffix=".pt2", write=_write, open=_open))
