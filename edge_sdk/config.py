"""Settings of networks, training and distillation, as msgspec structs without torch.

The defaults are the demonstration's: a 128 x 128 input, trained within minutes on two CPU cores. Every struct
refuses unknown fields, and a value out of range raises `ConfigError`.
"""

from __future__ import annotations

from typing import Literal

from edge_sdk.losses.terms import LossTerm
from edge_sdk.settings import Settings, check
from edge_sdk.train.settings import LoopConfig

__all__ = [
    "AugmentConfig",
    "DistillConfig",
    "NetworkConfig",
    "OptimiserConfig",
    "TeacherConfig",
    "UltrasoundAugmentConfig",
]


class NetworkConfig(Settings, frozen=True, kw_only=True):
    """A `UNet`: `width` channels at the first stage, doubled at each of `depth` stages up to `max_width`.

    `stem_stride` 2 computes everything at half the input size and resizes the logits once at the end;
    `convs` is the number of 3 x 3 convolutions of a stage. `block` "depthwise" splits each of them but the first of
    the network into a depthwise 3 x 3 and a 1 x 1: fewer multiply-adds, and harder to quantize.
    """

    width: int = 16
    depth: int = 4
    max_width: int = 512
    stem_stride: Literal[1, 2] = 1
    convs: int = 2
    block: Literal["plain", "depthwise"] = "plain"

    def __post_init__(self) -> None:
        check(1 <= self.width <= 1024, "width", self.width, "1 to 1024 channels are allowed")
        check(1 <= self.depth <= 7, "depth", self.depth, "1 to 7 stages are allowed")
        check(self.max_width >= self.width, "max_width", self.max_width, f"at least width ({self.width}) is needed")
        check(1 <= self.convs <= 4, "convs", self.convs, "1 to 4 convolutions a stage are allowed")


class OptimiserConfig(Settings, frozen=True, kw_only=True):
    """AdamW with a learning-rate schedule in closed form, so that a resumed run needs no scheduler state.

    `schedule`: "one_cycle" (Smith and Topin 2018) rises over the first `warmup` share of the steps and falls to
    almost zero; "cosine" (Loshchilov and Hutter 2017) rises linearly over `warmup` and falls to zero.
    `clip_norm` bounds the gradient's L2 norm (0: off). `ema_decay` > 0 trains on and returns an exponential moving
    average of the weights. `threads` is torch's intra-op thread count while training (0: leave it). `accelerator`,
    `devices`, `nodes`, `strategy` and `precision` are Lightning Fabric's; `batch_size` counts over all devices.
    """

    epochs: int = 4
    batch_size: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warmup: float = 0.2
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    seed: int = 0
    threads: int = 0
    accelerator: str = "cpu"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "devices", "nodes"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1 is needed")
        for name in ("weight_decay", "clip_norm", "seed", "threads"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "zero or more is needed")
        check(0 < self.learning_rate <= 1, "learning_rate", self.learning_rate, "above 0 and up to 1 is allowed")
        check(0 <= self.warmup < 1, "warmup", self.warmup, "a share in [0, 1) is allowed")
        check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a decay in [0, 1) is allowed")


class UltrasoundAugmentConfig(Settings, frozen=True, kw_only=True):
    """Random changes along the beams of an ultrasound image; each is off at 0, the default, and then draws nothing.

    Grey values are taken as log-compressed echoes over `range_db` of dynamic range. Geometry, which labels, soft
    targets and boxes follow: `depth` is the largest share of the imaging depth that a shallower depth setting cuts
    off, `narrow` the largest share of the beams that go dark, `elastic` the largest displacement as a share of the
    frame's shorter side. Grey values: `blur_axial_px` and `blur_lateral_px` are the largest standard deviations of an
    added point-spread function in input pixels; `speckle` the largest share of fully developed speckle, its grain
    `speckle_px` (standard deviation of the point-spread function along the beam, twice that across);
    `attenuation_db` the largest loss at full depth; `shadow` the probability of an acoustic shadow of up to
    `shadow_db`; `haze` the largest grey value of clutter in [0, 1]; `tgc_db` the largest error of a gain slider.
    """

    range_db: float = 60.0
    depth: float = 0.0
    narrow: float = 0.0
    elastic: float = 0.0
    blur_axial_px: float = 0.0
    blur_lateral_px: float = 0.0
    speckle: float = 0.0
    speckle_px: float = 1.0
    attenuation_db: float = 0.0
    shadow: float = 0.0
    shadow_db: float = 30.0
    haze: float = 0.0
    tgc_db: float = 0.0

    def __post_init__(self) -> None:
        check(20 <= self.range_db <= 120, "range_db", self.range_db, "20 to 120 dB are allowed")
        for name in ("depth", "narrow"):
            check(0 <= getattr(self, name) <= 0.7, name, getattr(self, name), "a share in [0, 0.7] is allowed")
        check(0 <= self.elastic <= 0.05, "elastic", self.elastic, "0 to 0.05 is allowed; more would fold the frame")
        for name in ("blur_axial_px", "blur_lateral_px"):
            check(0 <= getattr(self, name) <= 8, name, getattr(self, name), "0 to 8 pixels are allowed")
        for name in ("speckle", "shadow", "haze"):
            check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1 is allowed")
        check(0.3 <= self.speckle_px <= 8, "speckle_px", self.speckle_px, "0.3 to 8 pixels are allowed")
        for name in ("attenuation_db", "shadow_db", "tgc_db"):
            check(0 <= getattr(self, name) <= 60, name, getattr(self, name), "0 to 60 dB are allowed")


class AugmentConfig(Settings, frozen=True, kw_only=True):
    """Random changes of a training frame; each setting 0 (or `min_scale` 1) switches its change off.

    `flip` is the probability of a left-right flip. `min_scale` is the smallest side of the crop that is stretched
    back to the full input, as a share of the side; `max_scale` above 1 also shrinks frames into a larger one, its
    border repeated. `rotate` is the largest angle in degrees, `stretch` the largest change of the log aspect. `gain`
    is the largest relative change of brightness, `gamma` the largest change of log-gamma, `noise` the largest
    standard deviation of white noise; all three on grey values in [0, 1]. `ultrasound` follows the beams.
    """

    flip: float = 0.5
    min_scale: float = 0.8
    max_scale: float = 1.0
    rotate: float = 0.0
    stretch: float = 0.0
    gain: float = 0.3
    gamma: float = 0.4
    noise: float = 0.03
    ultrasound: UltrasoundAugmentConfig = UltrasoundAugmentConfig()

    def __post_init__(self) -> None:
        check(0 <= self.flip <= 1, "flip", self.flip, "a probability in [0, 1] is allowed")
        check(0.1 <= self.min_scale <= 1, "min_scale", self.min_scale, "a share in [0.1, 1] is allowed")
        check(1 <= self.max_scale <= 4, "max_scale", self.max_scale, "1 to 4 is allowed")
        check(0 <= self.rotate <= 180, "rotate", self.rotate, "0 to 180 degrees are allowed")
        check(0 <= self.stretch <= 1, "stretch", self.stretch, "0 to 1 is allowed")
        check(0 <= self.gain < 1, "gain", self.gain, "a share in [0, 1) is allowed")
        check(0 <= self.gamma <= 2, "gamma", self.gamma, "0 to 2 is allowed")
        check(0 <= self.noise <= 1, "noise", self.noise, "0 to 1 is allowed")


class TeacherConfig(Settings, frozen=True, kw_only=True):
    """How a teacher is trained from scratch; `loop` says when to stop early, and more of the kind."""

    network: NetworkConfig = NetworkConfig(width=16, depth=4)
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    loop: LoopConfig = LoopConfig()


class DistillConfig(Settings, frozen=True, kw_only=True):
    """How a student learns from a teacher.

    Loss of a labelled frame: `distill_weight` times the soft-output loss at `temperature` plus
    (1 - `distill_weight`) times the task loss; an unlabelled frame has the soft-output loss alone.

    With `views` 0 the teacher answers each clean frame once and its answer moves with the frame in every epoch. With
    `views` K it answers K fixed views of each frame, moved as `view_augment` says (geometry alone), and an epoch goes
    over all of them, each changed further as `augment` says: slower to prepare, and what a student learns more from.

    `terms` replaces the loss above by a sum of weighted terms (`edge_sdk.losses.LossTerm`), feature terms among them.
    """

    network: NetworkConfig = NetworkConfig(width=8, depth=4, max_width=48, stem_stride=2)
    optimiser: OptimiserConfig = OptimiserConfig(epochs=16, batch_size=16)
    augment: AugmentConfig = AugmentConfig()
    temperature: float = 2.0
    distill_weight: float = 0.3
    views: int = 0
    view_augment: AugmentConfig = AugmentConfig()
    terms: tuple[LossTerm, ...] = ()
    loop: LoopConfig = LoopConfig()

    def __post_init__(self) -> None:
        check(0 <= self.views <= 1000, "views", self.views, "0 to 1000 are allowed")
        check(0 < self.temperature <= 100, "temperature", self.temperature, "above 0 and up to 100 is allowed")
        check(0 <= self.distill_weight <= 1, "distill_weight", self.distill_weight, "a weight in [0, 1] is allowed")
