"""What a rewrite needs of the trace: the channel labels of tensors while the model runs, and which of them may go."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autoslim.ops import Labels, Ledger
from autoslim.trace._run import Trace, ignore, label_tensors, run_labelled
from autoslim.trace._solve import decode, solve
from autoslim.widths import Widths


class LabelledRuns:
    """Runs a model under the operator rules; what the rules write in all runs counts together."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.ledger = Ledger()
        self.tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        label_tensors(model, self.ledger)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Labels one more buffer."""
        self.ledger.add_tensor(name, tensor)
        self.tensors[name] = tensor

    def labels(self, tensor: torch.Tensor) -> Labels:
        return self.ledger.labels(tensor)

    def run(self, inputs: tuple[Any, ...]) -> None:
        run_labelled(self.model, inputs, self.ledger, ignore)

    def draw_kept(self, shapes: Sequence[tuple[int, ...]], draws: int) -> torch.Tensor:
        """For each of several random sub-networks which labels it keeps, bool [draws, labels].

        No probe has been: groups that only the model's own code holds back are narrowed too.
        """
        graph, codes = solve(Trace(self.model, self.ledger, "meta"), self.model, shapes, ())
        owner, atom = decode(codes)
        kept: list[torch.Tensor] = []
        for seed in range(draws):
            rng = random.Random(seed)
            widths = Widths({g.name: g.size if g.frozen else g.atom * rng.randint(1, g.atoms) for g in graph.groups})
            atoms = np.append(graph.atoms(widths), np.iinfo(np.int64).max)  # the last: slots of no group
            kept.append(torch.from_numpy(atom < atoms[owner]))
        return torch.stack(kept)
