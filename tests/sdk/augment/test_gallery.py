"""The gallery: every ultrasound setting has a picture, the document shows it, and a picture shows a change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_sdk.augment.gallery import GALLERY, picture, write_gallery
from edge_sdk.config import UltrasoundAugmentConfig

ROOT = Path(__file__).parents[3]


def test_every_setting_has_a_picture_in_the_document() -> None:
    text = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    plain = UltrasoundAugmentConfig()
    shown = set()
    for name, config in GALLERY.items():
        assert f"images/augment_{name}.png" in text
        assert (ROOT / "docs" / "images" / f"augment_{name}.png").is_file()
        shown |= {f for f in msgspec.structs.asdict(config) if getattr(config, f) != getattr(plain, f)}
    assert set(msgspec.structs.asdict(plain)) - shown == {"range_db"}


def test_a_picture_shows_the_frames_and_three_draws() -> None:
    shown = picture(GALLERY["shadow"])
    assert shown.dtype == np.uint8
    assert shown.shape == (2 * 156, 4 * 200, 3)
    first, second = shown[:, :200], shown[:, 200:400]
    assert not np.array_equal(first, second)
    assert np.array_equal(picture(GALLERY["shadow"]), shown)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        write_gallery(tmp_path / "file" / "images")
