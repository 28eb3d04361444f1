"""Gates against frames unlike the training ones, fitted on the host and carried in the bundle.

Two scores. The energy of the logits (Liu, Wang, Owens and Li, NeurIPS 2020) needs nothing but the student's own output.
The Mahalanobis distance of features (Lee, Lee, Lee and Shin, NeurIPS 2018) needs an output that gives them
(`WithFeatures`), and sees frames on which the student is confidently wrong. The device computes the score with the
code that `gate_scores` calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.bundle.manifest_reading import EnergyGate, Gate, MahalanobisGate
from edge_runtime.errors import ConfigError
from edge_runtime.postprocess.gates import GateReader, pooled
from edge_sdk.evaluate.folds import grouped_folds

__all__ = ["WithFeatures", "fit_energy_gate", "fit_mahalanobis_gate", "gate_scores", "mahalanobis_in_folds"]

Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
_FOLDS = 5
G = TypeVar("G", EnergyGate, MahalanobisGate)


class WithFeatures(nn.Module):
    """(N, C, H, W) float32 -> the network's output, and (N, D): what `layer`, one of its modules, gives, averaged over
    its pixels. It exports as it is, with two outputs.
    """

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        if not any(module is layer for module in network.modules()):
            raise ConfigError("the layer is no module of the network; give one of network.modules()")
        self.network = network
        self._layer = [layer]  # in a list, so that it is no second child of this module

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept.append(output)

        handle = self._layer[0].register_forward_hook(keep)
        try:
            answer: Tensor = self.network(frames)
        finally:
            handle.remove()
        return answer, kept[0].mean(dim=(2, 3))


def fit_energy_gate(
    held: Float32, output: OutputSpec, *, over: str, false_alarm: float = 0.05, temperature: float = 1.0
) -> EnergyGate:
    """The energy that at most a share `false_alarm` of the held-out frames exceeds.

    `held` (M, ...) are the logits of `output` on frames that trained nothing, split by examination; `over` says which.
    Raises `ConfigError` for too few frames to show that rate (at least 1 / `false_alarm`), or another shape.
    """
    gate = EnergyGate(threshold=0.0, false_alarm=false_alarm, n=len(held), over=over, temperature=temperature)
    return _at_rate(gate, held, output, false_alarm)


def fit_mahalanobis_gate(
    features: Float32,
    held: Float32,
    output: OutputSpec,
    *,
    over: str,
    labels: npt.NDArray[Any] | None = None,
    false_alarm: float = 0.05,
) -> MahalanobisGate:
    """The distance that at most a share `false_alarm` of the held-out frames exceeds.

    `features` (N, D) or (N, D, H, W) of training frames give the means, one for each of the `labels` (N,), all in one
    when None, and the covariance that they share, shrunk towards the identity by as much as is best (Ledoit and Wolf,
    J. Multivariate Analysis 88, 2004); `held` (M, ...) gives the threshold as in `fit_energy_gate`. Raises
    `ConfigError` for shapes that do not fit, values that are not finite, fewer than two frames, or features that never
    change.
    """
    rows = pooled(features)
    groups = np.zeros(len(rows), np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    if len(rows) < 2 or len(groups) != len(rows) or not np.isfinite(rows).all():
        raise ConfigError(f"{rows.shape} features and {len(groups)} labels; two finite rows or more, one label each")
    means = np.stack([rows[groups == k].mean(axis=0) for k in range(int(groups.max()) + 1)])
    covariance = _ledoit_wolf(rows - means[groups])
    if not np.trace(covariance) > 0:
        raise ConfigError("the features are the same in every frame; nothing can be told from them")
    # W^T W is the inverse of the covariance L L^T with W = L^-1, lower triangular
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    gate = MahalanobisGate(
        means=tuple(tuple(mean) for mean in means.tolist()),
        whitening=tuple(tuple(row[: k + 1]) for k, row in enumerate(whitening.tolist())),
        threshold=0.0,
        false_alarm=false_alarm,
        n=len(held),
        over=over,
    )
    return _at_rate(gate, held, output, false_alarm)


def mahalanobis_in_folds(
    features: Float32, groups: Sequence[str], output: OutputSpec, *, over: str, false_alarm: float = 0.05
) -> MahalanobisGate:
    """The gate of all `features` (N, D), whose threshold is that of distances to the frames of other folds.

    A frame that means and covariance were taken from is nearer to them than a new one, most of all where there are few
    frames for D. So the frames are dealt to five folds, each of the `groups` (N,) whole, and each frame is scored by a
    gate of the other four. Raises as `fit_mahalanobis_gate`, and for fewer than two groups.
    """
    if len(groups) != len(features):
        raise ConfigError(f"{len(groups)} groups of {len(features)} frames; one for each is needed")
    gate = fit_mahalanobis_gate(features, features, output, over=over, false_alarm=false_alarm)
    scores = np.empty(len(features))
    for fold in grouped_folds(groups, min(_FOLDS, len(set(groups))), seed=0):
        others = np.delete(features, fold, axis=0)
        part = fit_mahalanobis_gate(others, features, output, over=over, false_alarm=false_alarm)
        scores[fold] = gate_scores(features[fold], msgspec.structs.replace(output, gate=part))
    return _at_scores(gate, scores, false_alarm)


def gate_scores(values: Float32, output: OutputSpec) -> Floats:
    """(N,) scores by the gate of `output` of its values (N, ...) on N frames; the code of the device."""
    read = GateReader(output)
    if values.shape[1:] != tuple(output.shape[1:]):
        raise ConfigError(f"values are {values.shape}; N of {output.shape[1:]}, as output {output.name!r}, are needed")
    return np.array([read(frame[None]).score for frame in values])


def _at_rate(gate: G, held: Float32, output: OutputSpec, rate: float) -> G:
    """`gate` with the lowest threshold that at most a share `rate` of `held` exceeds, and the share that does."""
    if not 0 < rate < 1 or len(held) * rate < 1 - 1e-9:
        needed = math.ceil(1 / rate) if 0 < rate < 1 else 0
        raise ConfigError(f"{len(held)} held-out frames at a false-alarm rate of {rate}; above 0, and {needed} or more")
    kept: Gate = gate
    return _at_scores(gate, gate_scores(held, msgspec.structs.replace(output, gate=kept)), rate)


def _at_scores(gate: G, scores: Floats, rate: float) -> G:
    scores = np.sort(scores)
    threshold = float(scores[len(scores) - 1 - math.floor(rate * len(scores) + 1e-9)])
    share = float((scores > threshold).mean())
    return msgspec.structs.replace(gate, threshold=threshold, false_alarm=share)


def _ledoit_wolf(rows: Floats) -> Floats:
    """Covariance of centred rows (N, D): the sample's, drawn to a multiple of the identity by the best share."""
    n, size = rows.shape
    sample = rows.T @ rows / n
    scale = np.trace(sample) / size
    spread = ((sample - scale * np.eye(size)) ** 2).sum()
    noise = ((rows**2).sum(axis=1) ** 2).sum() / n**2 - (sample**2).sum() / n
    share = min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0
    mixed: Floats = (1 - share) * sample + share * scale * np.eye(size)
    return mixed
