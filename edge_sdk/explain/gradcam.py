"""Grad-CAM and Seg-Grad-CAM: where in a frame a network finds its evidence for a class."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.explain.layers import automatic_layer, check_explainable, evaluation_mode

__all__ = ["CamVariant", "grad_cam", "predicted_region"]

CamVariant = Literal["grad-cam", "hires-cam"]


def grad_cam(
    module: nn.Module,
    frames: Tensor,
    *,
    layer: str = "",
    target: int | Tensor | None = None,
    region: Tensor | None = None,
    variant: CamVariant = "grad-cam",
    batch_size: int = 16,
) -> Tensor:
    """(N, H, W) float32 maps in [0, 1] for frames (N, C, H, W): the evidence for class `target`, seen from `layer`.

    The score y is the logit of `target` for a classifier, (N, K) (Grad-CAM, Selvaraju et al., ICCV 2017), and the
    sum of that class's logits over the pixels of `region` for planes (N, K, H, W) (Seg-Grad-CAM, Vinogradova,
    Dibrov and Myers, AAAI 2020). With A the layer's output, the map is ReLU(sum_k a_k A_k), a_k the mean over
    positions of dy/dA_k; "hires-cam" takes ReLU(sum_k dy/dA_k * A_k), position by position (Draelos and Carin 2020,
    arXiv 2011.08891), which keeps where the gradient was. Maps are enlarged bilinearly to the frame and each is
    divided by its largest value; a map without evidence stays 0.

    `layer` names an inner module, by default `automatic_layer`. `target` is by default the only class, or the class
    predicted for each frame by a classifier, which also takes one class per frame, (N,) int64; planes of several
    classes need it. `region` (N, H, W) bool is by
    default what the network itself predicts as `target`. The module's mode, weights and gradients are left as they
    were. Raises `ConfigError` for arguments that do not fit, `InferenceError` for gradients that are not finite.
    """
    check_explainable(module)
    if frames.ndim != 4 or not len(frames):
        raise ConfigError(f"frames are {tuple(frames.shape)}; (N, C, H, W) with N >= 1 is needed")
    if region is not None and region.shape != (len(frames), *frames.shape[2:]):
        raise ConfigError(f"region is {tuple(region.shape)} for frames {tuple(frames.shape)}; (N, H, W) is needed")
    if isinstance(target, Tensor) and target.shape != (len(frames),):
        raise ConfigError(f"target is {tuple(target.shape)} for {len(frames)} frames; one class per frame is needed")
    if variant not in ("grad-cam", "hires-cam"):
        raise ConfigError(f"variant {variant!r} is unknown; 'grad-cam' and 'hires-cam' are")
    name = layer or automatic_layer(module, frames)
    parts = dict(module.named_modules())
    if not name or name not in parts:
        raise ConfigError(f"{type(module).__name__} has no layer {name!r}; it has {sorted(filter(None, parts))}")
    maps = []
    with evaluation_mode(module):
        for start in range(0, len(frames), batch_size):
            batch = frames[start : start + batch_size]
            wanted = None if region is None else region[start : start + batch_size]
            classes = target[start : start + batch_size] if isinstance(target, Tensor) else target
            activations, gradients = _gradients(module, parts[name], name, batch, classes, wanted)
            maps.append(_map(activations, gradients, variant, (batch.shape[2], batch.shape[3])))
    return torch.cat(maps)


def predicted_region(logits: Tensor, target: int = 0) -> Tensor:
    """(N, H, W) bool: where planes (N, K, H, W) say `target` (logit above 0 for one class, else the largest)."""
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(dim=1) == target


def _gradients(
    module: nn.Module, part: nn.Module, name: str, frames: Tensor, target: int | Tensor | None, region: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The layer's output and the score's gradient with respect to it, both (N, C, h, w)."""
    seen: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(f"layer {name!r} gives {shape}; a layer that gives (N, C, H, W) is needed")
        seen.append(output.detach().float().requires_grad_())
        return seen[-1].to(output.dtype).clone()  # a copy: the next layer may work in place

    hook = part.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            score = _score(module(frames.clone()), target, region)
            if len(seen) != 1:
                raise ConfigError(f"layer {name!r} runs {len(seen)} times in one pass; name one that runs once")
            (gradient,) = torch.autograd.grad(score, seen, allow_unused=True)
    finally:
        hook.remove()
    if gradient is None:
        raise ConfigError(f"the output does not depend on layer {name!r}; name another")
    if not bool(torch.isfinite(gradient).all()):
        raise InferenceError(f"layer {name!r}: gradients are NaN or infinite; check the network's weights")
    return seen[0].detach(), gradient


def _score(output: Any, target: int | Tensor | None, region: Tensor | None) -> Tensor:
    """The sum over frames of each frame's score; frames do not meet, so each keeps its own gradient."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(f"the network gives {shape}; class logits (N, K) or planes (N, K, H, W) are explained")
    classes = output.shape[1]
    given = torch.as_tensor(-1 if target is None else target)
    if target is not None and not bool(((given >= 0) & (given < classes)).all()):
        raise ConfigError(f"target is {given.tolist()}; 0 to {classes - 1} are allowed for {classes} classes")
    if output.ndim == 2:
        if region is not None:
            raise ConfigError("a region is for planes; this network gives one vector per frame")
        chosen = output.argmax(dim=1) if target is None else given.expand(len(output))
        return output.gather(1, chosen[:, None]).sum()
    if given.ndim or (target is None and classes > 1):
        raise ConfigError(f"the network gives planes of {classes} classes; say which one as `target`, one number")
    plane = max(int(given), 0)
    mask = predicted_region(output.detach(), plane) if region is None else region
    if mask.shape[1:] != output.shape[2:]:
        size = (output.shape[2], output.shape[3])
        mask = F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0
    return (output[:, plane] * mask).sum()


def _map(activations: Tensor, gradients: Tensor, variant: CamVariant, size: tuple[int, int]) -> Tensor:
    weights = gradients.mean(dim=(2, 3), keepdim=True) if variant == "grad-cam" else gradients
    cam = F.relu((weights * activations).sum(dim=1, keepdim=True))
    cam = F.interpolate(cam, size=size, mode="bilinear", align_corners=False)[:, 0]
    return cam / cam.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(cam.dtype).tiny)
