"""How much several answers to one frame differ: Monte-Carlo dropout, ensembles, and their uncertainty in parts.

Every member gives a probability p_m for each class. The entropy of their mean is the total uncertainty. It is the sum
of the members' mean entropy (aleatoric: each member alone is in doubt, as at a blurred edge) and of the mutual
information between answer and member (epistemic: the members disagree, as on a frame unlike those of training);
Depeweg et al. (ICML 2018), equations 2 and 3, after Houlsby et al. (2011). Entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError

__all__ = [
    "Spread",
    "add_dropout",
    "dropout_probabilities",
    "ensemble_spread",
    "entropy",
    "monte_carlo_dropout",
    "probabilities_of",
    "spread_of",
]

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spread:
    """What `members` answers say together: `mean` (N, C, ...) float32 probabilities, and per pixel or frame (N, ...)
    float32 `total`, `aleatoric` and `epistemic` in nats (total = aleatoric + epistemic) and `variance`.

    `variance` is half the members' mean squared distance from their mean probabilities, summed over classes. For one
    sigmoid it is the variance of p; so is it for the same distribution as two planes of a softmax. At most 1/4 for two
    classes, at most 1/2 for any number.
    """

    mean: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    variance: Tensor
    members: int

    @property
    def deviation(self) -> Tensor:
        """The square root of `variance`: standard deviation of a probability."""
        return self.variance.sqrt()


def probabilities_of(logits: Tensor) -> Tensor:
    """Sigmoid of (N, 1, ...) logits, softmax over dimension 1 of more, in float32."""
    if logits.dim() < 2:
        raise ConfigError(f"logits have shape {tuple(logits.shape)}; (N, C) or (N, C, H, W) is needed")
    return torch.sigmoid(logits.float()) if logits.shape[1] == 1 else torch.softmax(logits.float(), dim=1)


def _all_classes(probabilities: Tensor) -> Tensor:
    """A sigmoid's one plane as two, so that every formula below is a sum over classes."""
    return torch.cat([1 - probabilities, probabilities], 1) if probabilities.shape[1] == 1 else probabilities


def entropy(probabilities: Tensor) -> Tensor:
    """(N, ...) Shannon entropy in nats of `probabilities` (N, C, ...), C = 1 being a sigmoid; 0 log 0 is 0."""
    nats: Tensor = torch.special.entr(_all_classes(probabilities)).sum(dim=1)
    return nats


def spread_of(members: Iterable[Tensor]) -> Spread:
    """The spread of `members`, each (N, C, ...) probabilities of the same frames.

    Members are taken one by one and not kept (Welford's update), in float64. Raises `ConfigError` for fewer than two
    members or shapes that differ, `InferenceError` for values that are no probabilities.
    """
    mean = squares = doubt = torch.empty(0)
    planes = count = 0
    for answer in members:
        _check_probabilities(answer, count)
        p = _all_classes(answer.double())
        if count == 0:
            planes, mean, squares, doubt = answer.shape[1], torch.zeros_like(p), torch.zeros_like(p), entropy(p) * 0
        elif p.shape != mean.shape:
            raise ConfigError(
                f"member {count} gives {tuple(p.shape)}, member 0 {tuple(mean.shape)}; equal shapes are needed"
            )
        count += 1
        step = p - mean
        mean = mean + step / count
        squares = squares + step * (p - mean)
        doubt = doubt + entropy(p)
    if count < 2:
        raise ConfigError(f"{count} members; a spread needs at least 2")
    total, aleatoric = entropy(mean), doubt / count
    return Spread(
        mean=(mean[:, 1:] if planes == 1 else mean).float(),
        total=total.float(),
        aleatoric=aleatoric.float(),
        epistemic=(total - aleatoric).clamp_min(0).float(),  # rounding alone makes it negative
        variance=(squares.sum(dim=1) / (2 * count)).clamp_min(0).float(),
        members=count,
    )


def _check_probabilities(answer: Tensor, member: int) -> None:
    if answer.dim() < 2:
        raise ConfigError(f"member {member} gives {tuple(answer.shape)}; (N, C) or (N, C, H, W) is needed")
    ok = bool(torch.isfinite(answer).all()) and float(answer.min()) >= -1e-4 and float(answer.max()) <= 1 + 1e-4
    if ok and answer.shape[1] > 1:
        ok = float((answer.sum(dim=1) - 1).abs().max()) < 1e-2
    if not ok:
        raise InferenceError(
            f"member {member} does not give probabilities (values in [0, 1], classes adding to 1, none NaN); "
            "put its logits through probabilities_of"
        )


def ensemble_spread(members: Sequence[Callable[[Tensor], Tensor]], frames: Tensor) -> Spread:
    """The spread of an ensemble's logits on `frames` (N, C_in, H, W): deep ensembles, Lakshminarayanan, Pritzel and
    Blundell (NeurIPS 2017).

    A member is anything from frames to logits: a module in evaluation mode, or an `edge_sdk.teachers.Teacher`.
    Raises as `spread_of`.
    """

    def answers() -> Iterator[Tensor]:
        for member in members:
            with torch.inference_mode():
                answer = probabilities_of(member(frames))
            yield answer

    return spread_of(answers())


@contextmanager
def _dropout_alone(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for everything but dropout; all training flags are put back."""
    layers = [layer for layer in module.modules() if isinstance(layer, _DROPOUT) and layer.p > 0]
    if not layers:
        raise ConfigError(
            f"{type(module).__name__} has no dropout of positive rate, so every pass gives the same; train it with "
            "dropout (add_dropout), or take an ensemble"
        )
    flags = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        for layer in layers:
            layer.train()
        yield
    finally:
        for each, flag in flags:
            each.training = flag


def dropout_probabilities(module: nn.Module, frames: Tensor, *, samples: int, seed: int = 0) -> Iterator[Tensor]:
    """`samples` answers (N, C, ...) of `module` to `frames` with its dropout switched on and all else in evaluation
    mode. Pass k draws from `seed` + k alone, so passes do not depend on one another; the global random state and every
    training flag are as before between passes and at the end. Raises `ConfigError` without dropout, or for
    fewer than two samples.
    """
    if samples < 2:
        raise ConfigError(f"samples is {samples}; at least 2 passes are needed")
    devices = [frames.device] if frames.device.type == "cuda" else []
    for k in range(samples):
        with _dropout_alone(module), torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed + k)
            answer = probabilities_of(module(frames))
        yield answer


def monte_carlo_dropout(module: nn.Module, frames: Tensor, *, samples: int = 20, seed: int = 0) -> Spread:
    """The spread of `samples` passes with dropout: an approximation of Bayesian inference, Gal and Ghahramani
    (ICML 2016).

    `module` maps `frames` (N, C_in, H, W) to logits (N, C, ...). The same seed and the same batch give the same
    spread; another batch size draws other masks. Raises as `dropout_probabilities` and `spread_of`.
    """
    return spread_of(dropout_probabilities(module, frames, samples=samples, seed=seed))


def add_dropout(module: nn.Module, rate: float, blocks: Sequence[str]) -> nn.Module:
    """Append whole-channel dropout (`nn.Dropout2d`, Tompson et al., CVPR 2015) to the named `nn.Sequential` blocks.

    In place; returns `module`. The names of its weights stay, so state dicts keep fitting. For a `UNet` the deepest
    blocks are a good place ("encoder.2", "decoder.0"; Kendall, Badrinarayanan and Cipolla, BMVC 2017). Train with
    it: dropout that training has not seen measures nothing. Raises `ConfigError` for a rate outside (0, 1) and names
    that are no such block.
    """
    if not 0 < rate < 1:
        raise ConfigError(f"the dropout rate is {rate}; a share in (0, 1) is allowed")
    named = dict(module.named_modules())
    allowed = [name for name, layer in named.items() if isinstance(layer, nn.Sequential)]
    if not blocks or (unknown := [name for name in blocks if name not in allowed]):
        raise ConfigError(f"{unknown if blocks else 'nothing'} is asked for; name some of the blocks {allowed}")
    for name in blocks:
        block = named[name]
        assert isinstance(block, nn.Sequential)
        block.append(nn.Dropout2d(rate))
    return module
