"""Pictures of every ultrasound augmentation: `python -m edge_sdk.augment.gallery --out docs/images`.

One picture per change, `augment_NAME.png`: above a simulated linear image, below a sector, each as it was and after
three draws, with the outline of the true mask. The same version writes the same pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer

from edge_runtime.atomic import make_folder, replacing
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_sdk.augment.beams import BEAMS, beam_field
from edge_sdk.augment.pipeline import augment
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig, UltrasoundAugmentConfig
from edge_sdk.simulate import Inclusion, Layer, ProbeModel, Scene, simulate_frame

__all__ = ["GALLERY", "gallery_batch", "picture", "write_gallery"]

GALLERY: dict[str, UltrasoundAugmentConfig] = {
    "attenuation": UltrasoundAugmentConfig(attenuation_db=40),
    "blur": UltrasoundAugmentConfig(blur_axial_px=2, blur_lateral_px=5),
    "depth": UltrasoundAugmentConfig(depth=0.5),
    "elastic": UltrasoundAugmentConfig(elastic=0.05),
    "haze": UltrasoundAugmentConfig(haze=0.8),
    "narrow": UltrasoundAugmentConfig(narrow=0.5),
    "shadow": UltrasoundAugmentConfig(shadow=1, shadow_db=45),
    "speckle": UltrasoundAugmentConfig(speckle=1, speckle_px=1.2),
    "tgc": UltrasoundAugmentConfig(tgc_db=14),
}
_SHAPE = (152, 196)
_DRAWS = 3


def gallery_batch() -> Batch:
    """Two simulated frames, linear and sector, 152 x 196, with the target's mask and the beams."""
    scene = Scene(
        layers=(Layer(top_mm=0, echo_db=3), Layer(top_mm=8, wave_mm=1, echo_db=0)),
        inclusions=(
            Inclusion(kind="anechoic", x_mm=-3, z_mm=21, a_mm=8, b_mm=5.5, wall_db=12),
            Inclusion(kind="hyperechoic", x_mm=10, z_mm=31, a_mm=4, b_mm=3, echo_db=10, attenuation=0.5),
        ),
    )
    probes = (ProbeModel(), ProbeModel(kind="sector", apex_radius_mm=25, angle_rad=1.1))
    frames = [simulate_frame(scene, probe, 3, _SHAPE) for probe in probes]
    images = np.stack([frame.image for frame in frames])
    masks = np.stack([frame.mask for frame in frames])
    return Batch(
        inputs=torch.from_numpy(images[:, None]).float() / 255,
        labelled=torch.ones(len(frames), dtype=torch.bool),
        targets={
            "mask": Field(values=torch.from_numpy(masks).long(), kind="labels"),
            BEAMS: beam_field([frame.geometry.scan_area for frame in frames], _SHAPE),
        },
    )


def picture(config: UltrasoundAugmentConfig, *, seed: int = 1650) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: both frames as they were and after three draws, the mask's outline in yellow."""
    generator = torch.Generator().manual_seed(seed)
    batch = gallery_batch()
    drawn = [augment(batch, _only(config), (0.0, 1.0), generator) for _ in range(_DRAWS)]
    return np.concatenate([_tiles(each) for each in (batch, *drawn)], axis=1)


def _only(config: UltrasoundAugmentConfig) -> AugmentConfig:
    return AugmentConfig(flip=0, min_scale=1, gain=0, gamma=0, noise=0, ultrasound=config)


def _tiles(batch: Batch) -> npt.NDArray[np.uint8]:
    """The frames of a batch below each other, RGB, with a black margin."""
    cv2: Any = require("cv2", "to draw pictures")
    tiles = []
    for image, mask in zip(batch.inputs[:, 0], batch.target("mask"), strict=True):
        grey = (image.clamp(0, 1) * 255).round().byte().numpy()
        rgb = np.repeat(grey[..., None], 3, axis=2)
        outlines, _ = cv2.findContours(mask.byte().numpy(), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(rgb, outlines, -1, (255, 200, 0), 1)
        tiles.append(np.pad(rgb, ((2, 2), (2, 2), (0, 0)), constant_values=64))
    return np.concatenate(tiles)


def write_gallery(folder: Path) -> list[Path]:
    """Write every picture of `GALLERY` into `folder`, made if it is not there; the files in order of their names."""
    cv2: Any = require("cv2", "to write pictures")
    make_folder(folder)
    written = []
    for name, config in sorted(GALLERY.items()):
        path = folder / f"augment_{name}.png"
        with replacing(path) as temporary:
            if not cv2.imwrite(str(temporary), picture(config)[..., ::-1]):
                raise ConfigError(f"{path} cannot be written as PNG; give another folder")
        written.append(path)
    return written


def main(out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("docs/images")) -> None:
    """Write the pictures of docs/augmentation.md."""
    for path in write_gallery(out):
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
