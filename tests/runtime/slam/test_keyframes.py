"""The rule at its limits, the thumbnail as a cosine, and images that cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.slam import se3
from edge_runtime.slam.keyframes import THUMBNAIL, KeyframeRule, image_ncc, keyframe_reason, thumbnail

RULE = KeyframeRule()


@pytest.mark.parametrize(
    ("xi", "ncc", "reason"),
    [
        ((0, 0, 0, 0, 0, 1.99), 0.9, ""),
        ((0, 0, 0, 1.2, 0, 1.7), 0.9, "translation"),
        ((np.radians(2.9), 0, 0, 0, 0, 0), 0.9, ""),
        ((0, np.radians(3.1), 0, 0, 0, 0), 0.9, "rotation"),
        ((0, 0, 0, 0, 0, 0), 0.29, "appearance"),
        ((0, 0, 0, 0, 0, 0), float("nan"), ""),
    ],
)
def test_a_keyframe_is_taken_beyond_the_limits_and_not_before(xi, ncc, reason):
    assert keyframe_reason(RULE, se3.exp(xi), ncc) == reason


@pytest.mark.parametrize("wrong", [{"translation_mm": 0}, {"rotation_deg": 181}, {"ncc": 1.0}])
def test_a_rule_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError, match="are allowed"):
        KeyframeRule(**wrong)


def test_the_ncc_is_numpys_correlation():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 20, 30), np.uint8)
    mask = rng.random((20, 30)) > 0.4
    assert image_ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-12)
    assert image_ncc(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1], abs=1e-12)
    assert np.isnan(image_ncc(a, np.full_like(a, 7)))
    assert np.isnan(image_ncc(a, b, np.zeros_like(mask)))
    with pytest.raises(ConfigError, match="one"):
        image_ncc(a, b[:-1])


def test_thumbnails_ignore_gain_offset_and_noise_and_tell_places_apart():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:150, :200]
    place = 120 + 40 * np.sin(x / 17) * np.cos(y / 23)
    other = 120 + 40 * np.cos(x / 29) * np.sin(y / 13)
    seen, again, elsewhere = (
        thumbnail(np.clip(gain * im + off + rng.normal(0, 15, im.shape), 0, 255).astype(np.uint8))
        for im, gain, off in ((place, 1.0, 0), (place, 0.6, 30), (other, 1.0, 0))
    )
    assert seen.shape == (THUMBNAIL**2,)
    assert np.linalg.norm(seen) == pytest.approx(1, abs=1e-6)
    assert seen @ again > 0.98
    assert abs(seen @ elsewhere) < 0.5


def test_what_lies_outside_the_mask_does_not_count():
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (96, 96), np.uint8)
    mask = np.zeros(image.shape, bool)
    mask[20:70, 10:80] = True
    changed = np.where(mask, image, 255 - image)
    assert np.array_equal(thumbnail(image, mask), thumbnail(changed, mask))
    assert not thumbnail(np.full((64, 64), 9, np.uint8)).any()
    assert not thumbnail(image, np.zeros_like(mask)).any()
    with pytest.raises(ConfigError, match="at least 32"):
        thumbnail(image[:31])
