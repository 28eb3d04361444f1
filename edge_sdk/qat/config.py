"""Settings of quantization-aware training, without torch."""

from __future__ import annotations

from typing import Literal

from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.settings import Settings, check
from edge_sdk.train.settings import LoopConfig

__all__ = ["QatConfig"]


class QatConfig(Settings, frozen=True, kw_only=True):
    """How a quantized model learns to answer as its float32 one.

    `distance` of the outputs: "kd", the soft-output loss of logits (axis 1 holds the classes, one means a sigmoid) at
    `temperature`, or "mse", the squared error over the variance of the float32 answer. With labels the loss is
    `distill_weight` times the distance plus (1 - `distill_weight`) times Dice plus cross-entropy. `learn_scales`
    trains the steps of the activations along; otherwise they stay as they were collected.
    """

    optimiser: OptimiserConfig = OptimiserConfig(
        epochs=10, batch_size=8, learning_rate=1e-3, weight_decay=0.0, schedule="cosine", warmup=0.05
    )
    augment: AugmentConfig = AugmentConfig()
    loop: LoopConfig = LoopConfig()
    distance: Literal["kd", "mse"] = "kd"
    temperature: float = 1.0
    distill_weight: float = 0.7
    learn_scales: bool = True

    def __post_init__(self) -> None:
        check(0 < self.temperature <= 100, "temperature", self.temperature, "above 0 and up to 100 is allowed")
        check(0 < self.distill_weight <= 1, "distill_weight", self.distill_weight, "a weight in (0, 1] is allowed")
