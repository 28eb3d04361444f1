"""The depthwise-separable U-Net of the mixed-precision row: trained on hc18's labels, its weights stored.

`python -m benchmarks.lowering.depthwise` trains it (about ten minutes on one core, resumable). A quarter of the train
split's exams is held out: on those everything about its lowering is chosen, the test split is only reported on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.distill.cases import HC18
from benchmarks.distill.segmentation import WORK, Images
from benchmarks.distill.stored import recipe_sha256, write_weights
from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig, TeacherConfig
from edge_sdk.distill import train_teacher
from edge_sdk.progress import ProgressEvent
from edge_sdk.students import UNet, build_network

__all__ = ["CONFIG", "STORED", "StoredWeights", "held_out", "load", "read_stored", "store", "train"]

STORED = Path(__file__).resolve().parents[1] / "stored" / "lowering" / "mixed_precision"

CONFIG = TeacherConfig(
    network=NetworkConfig(width=16, depth=4, max_width=96, stem_stride=2, block="depthwise"),
    optimiser=OptimiserConfig(
        epochs=90,
        batch_size=16,
        learning_rate=6e-3,
        schedule="cosine",
        warmup=0.05,
        ema_decay=0.98,
        precision="bf16-mixed",
        threads=1,
    ),
    augment=AugmentConfig(flip=0.5, min_scale=0.7, max_scale=1.25, rotate=25, stretch=0.08),
)


class StoredWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands beside a file of stored weights: the hashes of settings, data and file, and the training's log."""

    recipe_sha256: str
    data_sha256: str
    weights_sha256: str
    log: dict[str, Any] = {}


def held_out() -> tuple[Images, Images]:
    """The train split's images that are trained on, and those that everything is chosen on; apart by exam."""
    return HC18.read("train").halves()


def train() -> UNet:
    """Train the student, or go on with a stopped run, and store its weights."""
    torch.set_num_threads(1)
    images, _ = held_out()
    home = WORK / "lowering"
    home.mkdir(parents=True, exist_ok=True)
    recipe = recipe_sha256(HC18.spec, CONFIG)

    def show(event: ProgressEvent) -> None:
        print(
            f"{event.task} {event.step}/{event.total} loss {event.loss or 0:.4f} eta {event.eta_s or 0:.0f} s",
            flush=True,
        )

    trained = train_teacher(
        images.labelled,
        spec=HC18.spec,
        config=CONFIG,
        checkpoint=home / f"depthwise-{recipe[:8]}.checkpoint",
        progress=show,
    )
    log = {"losses": trained.fit.losses, "seconds": trained.fit.seconds}
    store("depthwise", trained.network.state_dict(), recipe, log)
    return trained.network


def store(name: str, state: dict[str, torch.Tensor], recipe: str, log: dict[str, Any]) -> None:
    """Write tensors as STORED/name.safetensors, numbers as float16, and what they were trained with beside."""
    weights = write_weights(STORED / f"{name}.safetensors", state)
    record = StoredWeights(recipe_sha256=recipe, data_sha256=HC18.sha256(), weights_sha256=weights, log=log)
    write_bytes(STORED / f"{name}.json", msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def read_stored(name: str, recipe: str) -> dict[str, torch.Tensor]:
    """The tensors of `store`, float32. Raises `ConfigError` when they are missing, changed or of other settings."""
    safetensors: Any = require("safetensors.torch", "to read stored weights")
    path = STORED / f"{name}.safetensors"
    if not path.is_file():
        raise ConfigError(
            f"{path.name} is not stored; run `python -m benchmarks.lowering --fresh --only mixed_precision`"
        )
    data = path.read_bytes()
    record = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=StoredWeights)
    wanted = {
        "recipe_sha256": recipe,
        "data_sha256": HC18.sha256(),
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    stale = sorted(key for key, value in wanted.items() if getattr(record, key) != value)
    if stale:
        raise ConfigError(f"{path.name} is stale: its {', '.join(stale)} differ from the tree's; run with --fresh")
    state: dict[str, torch.Tensor] = safetensors.load(data)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def load() -> UNet:
    """The stored student in evaluation mode."""
    network = build_network(CONFIG.network)
    network.load_state_dict(read_stored("depthwise", recipe_sha256(HC18.spec, CONFIG)))
    return network.eval()


if __name__ == "__main__":
    train()
