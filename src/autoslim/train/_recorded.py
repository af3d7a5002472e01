"""The passes of a plain training step as one CUDA graph: calling small kernels takes longer than they do."""

from collections.abc import Callable

import torch
from torch import nn

from autoslim.errors import TrainingError
from autoslim.train._loop import Batch

# Takes a batch and its share in the step; gives the losses of its passes [P], and leaves gradients in `.grad`.
Passes = Callable[[Batch, float], torch.Tensor]

_AS_THEY_ARE = 3  # steps before the one that is recorded, in which libraries choose kernels and take their memory


class Recorded:
    """Forward and backward pass of one network, for batches of one shape: recorded once, then replayed.

    A replay calls the kernels that were recorded, on the same memory, so its numbers are those of the passes as they
    are. A batch of another shape or share is not replayed but run.

    Args:
        model: Its parameters and buffers keep their places in memory.
        passes: What is recorded. Nothing in it may wait for the GPU.

    Raises:
        TrainingError: The passes can't be recorded.
    """

    def __init__(self, model: nn.Module, passes: Passes) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._passes, self._ran = passes, 0
        self._graph: torch.cuda.CUDAGraph | None = None

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
        main, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            losses = self._passes(batch, share)
        main.wait_stream(aside)
        return losses

    def _record(self, batch: Batch, share: float) -> torch.cuda.CUDAGraph:
        self._batch = batch[0].clone(), batch[1].clone()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._losses = self._passes(self._batch, share)
        except RuntimeError as error:
            raise TrainingError(
                f"TrainConfig.cuda_graph: the passes of this network can't be recorded: {error}. Expected code that "
                "never waits for the GPU (no .item(), no shapes that follow from values). Drop --cuda-graph."
            ) from error
        self._gradients = [p.grad for p in self._parameters]
        return graph
