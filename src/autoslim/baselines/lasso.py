"""Channel pruning by LASSO and least squares, layer by layer (He et al. 2017)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from autoslim.baselines._base import BASELINES, Chosen, Lab, fill_atoms, import_needed, rank_channels_
from autoslim.budget import Budget
from autoslim.errors import ConfigError
from autoslim.extract import copy_model, extract_network
from autoslim.graph import ChannelGraph
from autoslim.search import Uniform
from autoslim.search._surrogate import Surrogate
from autoslim.sort import filter_norms

_Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Lasso:
    """For each layer, the input channels from which its output can be rebuilt best, and the weights that do so.

    "Channel pruning for accelerating very deep neural networks", section 3.1: LASSO over the channels' contributions to
    the layer's output chooses who stays, least squares then sets the weights; layer after layer, the inputs being those
    of the network as it is pruned so far, the outputs those of the network that it was. How many channels stay is given
    beforehand: the paper sets it by hand, here it is the uniform network of the budget. A group is chosen so where one
    layer reads it, and reads nothing else (the first layers of residual branches). Other groups stay by the norm of
    their filters, are cut before, and layers that read them keep their weights. Sparse regression is scikit-learn's.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {"sklearn.linear_model": "scikit-learn"}

    batches: int = 4
    """Training batches that outputs are sampled from."""

    places: int = 10
    """Sampled of each image's map, as in the paper."""

    penalties: int = 60
    """Tried per layer, each smaller than the one before, down to 1e-4 of the first."""

    def __post_init__(self) -> None:
        if self.batches < 1 or self.places < 1 or self.penalties < 2:
            raise ConfigError(
                f"Lasso: batches={self.batches}, places={self.places}, penalties={self.penalties}; expected 1 or more, "
                "1 or more, 2 or more. Leave them out for the defaults."
            )

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return [self._choose(lab, budget) for budget in budgets]

    def _choose(self, lab: Lab, budget: Budget) -> Chosen:
        scorer = Surrogate(lab.space.widest)  # uniform looks at no score
        (found,) = Uniform(tolerance=0).search(lab.space, lab.costs, [budget], scorer, base=lab.base)
        widths = fill_atoms(lab.space, found.widths, lab.excess(budget))
        model = copy_model(lab.trained).eval()
        rank_channels_(model, lab.graph, filter_norms(model, lab.graph))
        before, readers = copy_model(model), find_readers(model, lab.graph)
        by_norm = {group: widths[group] if group not in readers else lab.space.widest[group] for group in widths}
        stays = _silence_(model, lab.graph, by_norm)
        images = torch.cat([images for images, _ in lab.batches(self.batches)])
        for group, reader in readers.items():
            if widths[group] < lab.space.widest[group]:
                rows = stays[f"{reader}.weight"]
                self._rebuild_(lab, model, before, images, reader, rows, group, widths[group])
        return Chosen(budget, widths, extract_network(model, lab.graph, widths))

    def _rebuild_(
        self,
        lab: Lab,
        model: nn.Module,
        before: nn.Module,
        images: torch.Tensor,
        reader: str,
        rows: NDArray[np.int64],
        group: str,
        keep: int,
    ) -> None:
        """Chooses `keep` input channels of a layer, rebuilds its weights, and moves the channels to the front.

        `rows` are the layer's outputs that stay.
        """
        layer: Any = model.get_submodule(reader)
        inputs, _ = _see(model, reader, images)
        _, outputs = _see(before, reader, images)
        rng = np.random.default_rng(lab.seed)
        x, y = _sample(layer, inputs, outputs, self.places, rng)  # [N, channels, taps], [N, outputs]
        if layer.bias is not None:
            y = y - layer.bias.detach().cpu().double().numpy()
        weight = layer.weight.detach().cpu().double().reshape(len(layer.weight), x.shape[1], -1).numpy()
        stays = choose_channels(x, y[:, rows], weight[rows], keep, penalties=self.penalties)
        solved = np.linalg.lstsq(x[:, stays].reshape(len(x), -1), y[:, rows], rcond=None)[0]  # [channels * taps, rows]
        rebuilt = np.zeros_like(weight)
        rebuilt[np.ix_(rows, stays)] = solved.T.reshape(len(rows), len(stays), -1)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(rebuilt).reshape(layer.weight.shape))
        first = torch.zeros(x.shape[1])
        first[stays] = 1
        rank_channels_(model, lab.graph, {group: first})


def find_readers(model: nn.Module, graph: ChannelGraph) -> dict[str, str]:
    """Groups of single channels that one ordinary convolution or linear layer reads, and nothing else: {group: layer}.

    The layer reads nothing but the group, slot by slot.
    """
    reads: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            for axis in graph.axes:
                if axis.tensor == f"{name}.weight" and axis.dim == 1:
                    owners = sorted(set(axis.owner.tolist()))
                    plain = isinstance(module, nn.Linear) or module.groups == 1
                    whole = len(owners) == 1 and owners[0] >= 0
                    whole = whole and list(axis.atom) == list(range(graph.groups[owners[0]].atoms))
                    for owner in (owner for owner in owners if owner >= 0):
                        reads.setdefault(graph.groups[owner].name, []).append(name if plain and whole else "")
    return {
        group.name: reads[group.name][0]
        for group in graph.groups
        if group.frozen is None and len(reads.get(group.name, [])) == 1 and reads[group.name][0]
    }


def _silence_(model: nn.Module, graph: ChannelGraph, widths: Mapping[str, int]) -> dict[str, NDArray[np.int64]]:
    """Sets what lies beyond the widths to 0, so that the network computes as if it were gone.

    Returns:
        Per parameter the slots of its first dimension that stay.
    """
    parameters = dict(model.named_parameters())
    stays = {name: np.arange(len(tensor)) for name, tensor in parameters.items() if tensor.dim()}
    atoms = np.array([widths[group.name] // group.atom for group in graph.groups])
    with torch.no_grad():
        for axis in (axis for axis in graph.axes if axis.tensor in parameters):
            tensor = parameters[axis.tensor]
            gone = np.flatnonzero((axis.owner >= 0) & (axis.atom >= atoms[axis.owner]))
            tensor.index_fill_(axis.dim, torch.from_numpy(gone).to(tensor.device), 0.0)
            if axis.dim == 0:
                stays[axis.tensor] = np.setdiff1d(stays[axis.tensor], gone)
    return stays


def choose_channels(x: _Matrix, y: _Matrix, weight: _Matrix, keep: int, *, penalties: int = 60) -> NDArray[np.int64]:
    """The channels that LASSO leaves when its penalty falls until `keep` are left (equation 1 of the paper).

    Args:
        x: Inputs [samples, channels, taps].
        y: Outputs [samples, outputs].
        weight: [outputs, channels, taps].
        keep: How many.
        penalties: How many are tried.

    Returns:
        Their numbers, ascending; where one penalty more leaves too many, those of the largest coefficients.
    """
    (linear,) = import_needed("lasso")
    contributions = np.einsum("nct,oct->noc", x, weight).reshape(-1, x.shape[1])
    target = y.reshape(-1)
    most = np.abs(contributions.T @ target).max() / len(target)
    if most == 0:
        return np.arange(keep)
    _, coefficients, _ = linear.lasso_path(contributions, target, alphas=most * np.geomspace(1, 1e-4, penalties))
    counts = (coefficients != 0).sum(0)  # [penalties]
    reached = np.flatnonzero(counts >= keep)
    chosen = np.abs(coefficients[:, reached[0] if len(reached) else -1])
    return np.sort(np.argsort(-chosen, kind="stable")[:keep])


def _see(model: nn.Module, layer: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer takes in and puts out."""
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.extend((args[0], output))

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return seen[0], seen[1]


def _sample(
    layer: Any, inputs: torch.Tensor, outputs: torch.Tensor, count: int, rng: np.random.Generator
) -> tuple[_Matrix, _Matrix]:
    """Inputs [N, channels, taps] and outputs [N, outputs] at `count` random places of each image's map."""
    if isinstance(layer, nn.Linear):
        x = inputs.reshape(-1, inputs.shape[-1], 1)
        return x.cpu().double().numpy(), outputs.reshape(-1, outputs.shape[-1]).cpu().double().numpy()
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    taps = functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    x_all = taps.reshape(len(inputs), inputs.shape[1], -1, taps.shape[-1])  # [images, channels, taps, places]
    y_all = outputs.flatten(2)
    places = torch.from_numpy(rng.integers(taps.shape[-1], size=(len(inputs), count))).to(inputs.device)
    image = torch.arange(len(inputs), device=inputs.device)[:, None]
    x = x_all.permute(0, 3, 1, 2)[image, places].flatten(0, 1)
    y = y_all.permute(0, 2, 1)[image, places].flatten(0, 1)
    return x.cpu().double().numpy(), y.cpu().double().numpy()


BASELINES.register("lasso", Lasso)
