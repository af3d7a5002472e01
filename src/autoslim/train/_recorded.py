"""The passes of a plain training step as one CUDA graph: calling small kernels takes longer than they do."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from autoslim.errors import TrainingError, describe_error
from autoslim.train._loop import Batch

# Takes a batch and its share in the step; gives the losses of its passes [P], and leaves gradients in `.grad`.
Passes = Callable[[Batch, float], torch.Tensor]

_ADVICE = (
    'Drop --cuda-graph; in a run that has begun, write "cuda_graph": false into its run.json, then go on with --resume.'
)
_AS_THEY_ARE = 3  # steps before the one that is recorded, in which libraries choose kernels and take their memory


class Recorded:
    """Forward and backward pass of one network, for batches of one shape: recorded once, then replayed.

    A replay calls the kernels that were recorded, on the same memory, so its numbers are those of the passes as they
    are. A batch of another shape or share is not replayed but run.

    Args:
        model: Its parameters and buffers keep their places in memory.
        passes: What is recorded. Nothing in it may wait for the GPU.

    Raises:
        TrainingError: The passes can't be recorded, or a replay would not do what they do.
    """

    def __init__(self, model: nn.Module, passes: Passes) -> None:
        self._model, self._parameters = model, [p for p in model.parameters() if p.requires_grad]
        self._passes, self._ran = passes, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._aside: torch.cuda.Stream | None = None

    def __call__(self, batch: Batch, share: float) -> torch.Tensor:
        kind = [(part.shape, part.dtype, part.stride()) for part in batch], share
        if self._graph is None and self._ran < _AS_THEY_ARE:
            self._ran += 1
            return self._beside(batch, share)
        if self._graph is None:
            self._kind = kind
            self._graph = self._record(batch, share)
        if kind != self._kind:
            return self._passes(batch, share)
        for place, part in zip(self._batch, batch, strict=True):
            place.copy_(part)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._losses.clone()

    def _beside(self, batch: Batch, share: float) -> torch.Tensor:
        """The passes on a stream of their own, as the recording will be: nothing of them is bound to the main one."""
        main, aside = torch.cuda.current_stream(), self._stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            losses = self._passes(batch, share)
        main.wait_stream(aside)
        return losses

    def _stream(self) -> torch.cuda.Stream:
        """One for all: memory and libraries' workspaces belong to a stream."""
        if self._aside is None:
            self._aside = torch.cuda.Stream()
        return self._aside

    def _record(self, batch: Batch, share: float) -> torch.cuda.CUDAGraph:
        self._batch = batch[0].clone(), batch[1].clone()
        graph, before, main = torch.cuda.CUDAGraph(), look(self._model), torch.cuda.current_stream()
        try:
            # by this thread alone: another one pins the memory of the next batches meanwhile
            with torch.cuda.graph(graph, stream=self._stream(), capture_error_mode="thread_local"):
                self._losses = self._passes(self._batch, share)
        except RuntimeError as error:
            torch.cuda.set_stream(main)  # the end of a recording that failed fails, too, and leaves the other one
            first = error
            while isinstance(first.__context__, RuntimeError):
                first = first.__context__
            if isinstance(first, torch.OutOfMemoryError):
                raise first from error
            raise TrainingError(
                f"TrainConfig.cuda_graph: the passes of this network can't be recorded: {describe_error(first)}. "
                "Expected code that never waits for the GPU (no .item(), no shapes that follow from values). " + _ADVICE
            ) from error
        after = look(self._model)
        odd = [name for name in before if before[name] != after.get(name)]
        if odd:
            raise TrainingError(
                f"TrainConfig.cuda_graph: the passes of this network change {odd[0]}, which a replay would not. "
                "Expected buffers that are written in place (copy_, lerp_), no counting in Python, and random numbers "
                "that torch draws on the GPU. " + _ADVICE
            )
        self._gradients = [p.grad for p in self._parameters]
        return graph


def look(model: nn.Module) -> Mapping[str, Any]:
    """What no replay changes, by name: which tensor each buffer is, modules' numbers, the processor's generators."""
    numpy: Any = np.random.get_state()
    buffers = {f"the tensor that is its buffer `{name}`": each.data_ptr() for name, each in model.named_buffers()}
    numbers = {
        f"the number `{f'{path}.{name}'.strip('.')}`": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float)
    }
    drawn = {
        "Python's random state": random.getstate(),
        "numpy's random state": (numpy[1].tobytes(), *numpy[2:]),
        "torch's random state on the processor": torch.get_rng_state().numpy().tobytes(),
    }
    return {**buffers, **numbers, **drawn}
