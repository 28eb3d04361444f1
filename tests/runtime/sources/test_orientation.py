"""How the images of a recording lie."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, SourceFormatError
from edge_runtime.sources import TrackedSequence


@pytest.mark.parametrize("have", ["MF", "MN", "UF", "UN", "FM", "FU", "NM", "NU"])
def test_every_orientation_becomes_mf(have: str) -> None:
    """Built from where the marked and the far side are, not from flips."""
    truth = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)  # (far, marked)
    image = np.zeros((3, 2) if have[0] in "FN" else (2, 3), np.uint8)
    for far in range(2):
        for marked in range(3):
            place = {"M": marked, "U": 2 - marked, "F": far, "N": 1 - far}
            image[place[have[1]], place[have[0]]] = truth[0, far, marked]
    turned = TrackedSequence(frames=image[None], orientation=have).oriented("MF")
    np.testing.assert_array_equal(turned.frames, truth)
    back = turned.oriented(have)
    np.testing.assert_array_equal(back.frames, image[None])


def test_an_unknown_orientation_is_not_guessed() -> None:
    with pytest.raises(SourceFormatError, match="orientation='MF'"):
        TrackedSequence(frames=np.zeros((1, 2, 3), np.uint8)).oriented("MF")
    with pytest.raises(ConfigError, match="orientation is 'QQ'"):
        TrackedSequence(frames=np.zeros((1, 2, 3), np.uint8), orientation="QQ")
