"""From measured sub-networks to a prediction for all: non-negative least squares on what a network has to do."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoslim.costs.latency._workload import make_workload
from autoslim.graph import ChannelGraph

Array = NDArray[np.float64]

_PENALTIES = (0.003, 0.03, None)  # on the layers' own columns; None: no such columns
_LITTLE = 1e-3  # penalty on the shared columns: decides where they can't be told apart
_FOLDS, _ROUNDS = 4, 6


@dataclass(frozen=True)
class Fit:
    """Milliseconds as a sum of what is to be done times what it takes, never below 0.

    Attributes:
        graph: The network's.
        shared: What a unit of each shared column takes, [S].
        layers: What a unit of each layer's column takes beyond that, [L].
        error: Median relative error on measured networks that were left out of the fit.
    """

    graph: ChannelGraph
    shared: Array
    layers: Array
    error: float

    def predict(self, atoms: NDArray[np.int64]) -> Array:
        """Milliseconds of N sub-networks; [N, groups] atoms kept."""
        shared, layers = make_workload(self.graph, atoms)
        return shared @ self.shared + layers @ self.layers


def fit_latency(graph: ChannelGraph, atoms: NDArray[np.int64], milliseconds: Array) -> Fit:
    """Fits relative errors. Whether layers get times of their own, and how freely, is judged on rows left out.

    Args:
        graph: The network's.
        atoms: Of the measured sub-networks, [N, groups].
        milliseconds: What they took, [N].
    """
    shared, layers = make_workload(graph, atoms)
    fold = np.arange(len(atoms)) % _FOLDS

    def error(penalty: float | None) -> float:
        missed: list[Array] = []
        for out in range(_FOLDS):
            kept = fold != out
            a, b = _solve(shared[kept], layers[kept], milliseconds[kept], penalty)
            missed.append(np.abs((shared[~kept] @ a + layers[~kept] @ b) / milliseconds[~kept] - 1))
        return float(np.median(np.concatenate(missed)))

    errors: dict[float | None, float] = {None: np.nan}
    if len(atoms) >= 2 * _FOLDS:
        errors = {penalty: error(penalty) for penalty in _PENALTIES}
    best = min(errors, key=lambda penalty: errors[penalty])
    a, b = _solve(shared, layers, milliseconds, best)
    return Fit(graph, a, b, errors[best])


def _solve(shared: Array, layers: Array, milliseconds: Array, penalty: float | None) -> tuple[Array, Array]:
    """Huber's loss by reweighting: a network measured in a bad moment counts less."""
    from scipy.optimize import nnls  # a second to import

    own = layers if penalty is not None else layers[:, :0]
    # each column as a share of the whole: the shared ones sum over all layers, a layer's own over itself
    scale = np.concatenate([shared.mean(axis=0), own.mean(axis=0) * max(own.shape[1], 1) ** 0.5])
    used = scale > 0
    columns = np.where(used, np.concatenate([shared, own], axis=1) / np.where(used, scale, 1), 0)
    strength = np.concatenate([np.full(shared.shape[1], _LITTLE), np.full(own.shape[1], penalty or 0.0)])
    ridge = np.diag(strength * len(milliseconds) ** 0.5)
    weight, solution = np.ones(len(milliseconds)), np.zeros(columns.shape[1])
    for _ in range(_ROUNDS):
        rows = np.concatenate([columns * (weight / milliseconds)[:, None], ridge])
        solution, _ = nnls(rows, np.concatenate([weight, np.zeros(len(ridge))]), maxiter=100 * len(scale))
        missed = np.abs(columns @ solution / milliseconds - 1)
        usual = 1.4826 * float(np.median(missed)) + 1e-4
        weight = np.sqrt(np.minimum(1, usual / np.maximum(missed, 1e-9)))
    found = np.where(used, solution / np.where(used, scale, 1), 0)
    rest = found[shared.shape[1] :] if penalty is not None else np.zeros(layers.shape[1])
    return found[: shared.shape[1]], rest
