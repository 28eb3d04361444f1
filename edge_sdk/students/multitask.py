"""Several answers from one encoder: a mask, a class and, if asked for, numbers, at the price of one network.

Hard parameter sharing (Caruana, Machine Learning 1997): one U-Net encoder; its decoder gives the mask, the
global mean of its deepest features the class and the numbers. In place of a second network of the same encoder, a head
costs one pooling and one small matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch
from edge_sdk.losses import dice_ce, logit_kd, pixelwise_kd
from edge_sdk.students.unet import UNet

__all__ = ["MultiTaskLoss", "MultiTaskUNet"]


class MultiTaskUNet(nn.Module):
    """(N, in_channels, H, W) float32 -> a dict of float32 tensors, in the order of `output_names`.

    "mask" (N, mask_classes, H, W) logits as a `UNet`'s; "class" (N, classes) logits of a softmax where `classes` > 0;
    "value" (N, values) numbers in the unit of their targets where `values` > 0. `unet` are the settings of `UNet`.
    Raises `ConfigError` for one class, negative counts, or no head but the mask.
    """

    def __init__(
        self, in_channels: int = 1, mask_classes: int = 1, *, classes: int = 2, values: int = 0, **unet: Any
    ) -> None:
        super().__init__()
        if classes == 1 or classes < 0 or values < 0 or classes + values == 0:
            raise ConfigError(
                f"classes is {classes} and values {values}; 0 or at least 2 classes, 0 or more values, and one of "
                "both are needed; for the mask alone use UNet"
            )
        self.unet = UNet(in_channels, mask_classes, **unet)
        deepest = list(self.unet.encoder)[-1] if len(self.unet.encoder) else self.unet.stem
        features = max(layer.out_channels for layer in deepest.modules() if isinstance(layer, nn.Conv2d))
        self.class_head = nn.Linear(features, classes) if classes else None
        self.value_head = nn.Linear(features, values) if values else None

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in their order, which `edge_export.export_torch` takes."""
        heads = {"mask": True, "class": self.class_head is not None, "value": self.value_head is not None}
        return tuple(name for name, present in heads.items() if present)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        mask, deepest = self._mask(frames)
        found, pooled = {"mask": mask}, deepest.mean(dim=(2, 3))
        if self.class_head is not None:
            found["class"] = self.class_head(pooled)
        if self.value_head is not None:
            found["value"] = self.value_head(pooled)
        return found

    def _mask(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The U-Net's logits and its deepest features (N, F, h, w): `UNet.forward`, keeping both."""
        unet = self.unet
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and (frames.shape[-1] % unet.divisor or frames.shape[-2] % unet.divisor):
            raise ConfigError(
                f"the input is {tuple(frames.shape[-2:])}; height and width must be multiples of {unet.divisor}"
            )
        x = unet.stem(frames)
        skips = []
        for block in unet.encoder:
            skips.append(x)
            x = block(unet.pool(x))
        deepest = x
        for block in unet.decoder:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], dim=1))
        logits: Tensor = unet.head(x)
        if unet.stem_stride == 2:
            logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits, deepest


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTaskLoss:
    """Weighted sum of the heads' losses, a scalar; a head is trained where `weights` names it.

    Truth of labelled samples: "mask" (N, H, W) by Dice plus cross-entropy; "class" (N,) by cross-entropy with
    `label_smoothing`; "value" (N, V) by the smooth L1 distance over `scale`, so that 1 is a typical error. A class of
    -1 and a value of NaN mean that this sample has none. Where the batch holds a teacher's answer of the same name
    ("mask" and "class" logits, "value" numbers), it counts `distill_weight` and the truth the rest; an unlabelled
    sample has the teacher's answers alone. Raises `ConfigError` for weights that are empty, negative or of an unknown
    head.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"mask": 1.0, "class": 1.0})
    label_smoothing: float = 0.0
    scale: float = 1.0
    temperature: float = 2.0
    distill_weight: float = 0.5

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - {"mask", "class", "value"})
        if unknown or not self.weights or any(not weight > 0 for weight in self.weights.values()):
            raise ConfigError(
                f"weights are {dict(self.weights)}; positive numbers for some of 'mask', 'class' and 'value' are needed"
            )
        if not self.scale > 0 or not 0 <= self.distill_weight <= 1:
            raise ConfigError(
                f"scale is {self.scale}, distill_weight {self.distill_weight}; above 0, and 0 to 1, are needed"
            )

    def __call__(self, outputs: Any, batch: Batch) -> Tensor:
        total = batch.inputs.new_zeros(())
        for name, weight in self.weights.items():
            if name not in outputs:
                raise ConfigError(f"the network gives {sorted(outputs)}; the loss weighs {name!r}. Add the head")
            total = total + weight * self._head(name, outputs[name].float(), batch)
        return total

    def _head(self, name: str, output: Tensor, batch: Batch) -> Tensor:
        has_soft = name in batch.soft
        share = self.distill_weight if has_soft else 0.0
        loss = output.new_zeros(())
        labelled = batch.labelled
        if name in batch.targets and bool(labelled.any()):
            truth = self._truth(name, output[labelled], batch.target(name)[labelled])
            loss = loss + (1 - share) * truth * labelled.float().mean()
        if has_soft:
            soft = batch.soft_target(name)
            for part, factor in ((labelled, share), (~labelled, 1.0)):
                if factor and bool(part.any()):
                    loss = loss + factor * self._soft(name, output[part], soft[part]) * part.float().mean()
        if not has_soft and name not in batch.targets:
            raise ConfigError(
                f"head {name!r} has neither a target nor a teacher's answer; give one, or its weight away"
            )
        return loss

    def _truth(self, name: str, output: Tensor, target: Tensor) -> Tensor:
        if name == "mask":
            return dice_ce(output, target)
        if name == "class":
            known = target >= 0
            if not bool(known.any()):
                return output.sum() * 0
            return F.cross_entropy(output[known], target[known], label_smoothing=self.label_smoothing)
        known = torch.isfinite(target)
        if not bool(known.any()):
            return output.sum() * 0
        return F.smooth_l1_loss(output[known] / self.scale, target[known] / self.scale)

    def _soft(self, name: str, output: Tensor, soft: Tensor) -> Tensor:
        if name == "mask":
            return pixelwise_kd(output, soft, self.temperature)
        if name == "class":
            return logit_kd(output, soft, self.temperature)
        return F.smooth_l1_loss(output / self.scale, soft / self.scale)
