"""What a rewrite needs of the trace: the channel labels of tensors while the model runs, and which of them may go."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoslim.ops import Labels, Ledger
from autoslim.trace._run import _forward
from autoslim.trace._solve import _classes, solve
from autoslim.widths import Widths


class LabelledRuns:
    """Runs a model under the operator rules; what the rules write in all runs counts together."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.ledger = Ledger()
        self.tensors: dict[str, torch.Tensor] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.add(name, tensor)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Labels a parameter or buffer."""
        self.ledger.add_tensor(name, tensor)
        self.tensors[name] = tensor

    def labels(self, tensor: torch.Tensor) -> Labels:
        return self.ledger.labels(tensor)

    def run(self, inputs: tuple[Any, ...]) -> None:
        _forward(self.model, inputs, self.ledger)

    def draw_kept(self, shapes: Sequence[tuple[int, ...]], draws: int) -> torch.Tensor:
        """For each of several random sub-networks which labels it keeps, bool [draws, labels].

        No probe has been: groups that only the model's own code holds back are narrowed too.
        """
        graph = solve(self.ledger, self.model, shapes, ())
        classes = torch.from_numpy(_classes(self.ledger))
        kept: list[torch.Tensor] = []
        for seed in range(draws):
            rng = random.Random(seed)
            widths = Widths({g.name: g.size if g.frozen else g.atom * rng.randint(1, g.atoms) for g in graph.groups})
            gone = torch.zeros(len(classes), dtype=torch.bool)  # per class
            for name, dims in graph.selection(widths).items():
                for dim, indices in dims.items():
                    labels = classes[self.ledger.labels(self.tensors[name])[dim]]
                    stays = torch.zeros(len(labels), dtype=torch.bool)
                    stays[indices] = True
                    gone[labels[~stays]] = True
            kept.append(~gone[classes])
        return torch.stack(kept)
