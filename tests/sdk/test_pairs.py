"""Masks by value: palette indices, grey levels, and the files that are refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edge_runtime.errors import ConfigError
from edge_sdk.pairs import PairPaths, read_image, read_labels, read_pairs

LABELS = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.uint8)


def palette(path: Path, labels: npt.NDArray[np.uint8] = LABELS) -> Path:
    image = Image.fromarray(labels, "L").copy()
    indexed = Image.new("P", image.size)
    indexed.putdata(labels.ravel().tolist())
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    indexed.save(path)
    return path


def test_a_palette_mask_is_read_by_index_where_opencv_gives_greys(tmp_path: Path) -> None:
    path = palette(tmp_path / "m.png")
    assert set(np.unique(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))) != {0, 1, 2}
    assert np.array_equal(read_labels(path, (0, 1, 2)), LABELS)


@pytest.mark.parametrize("form", ["grey", "rgb", "rgba", "grey alpha", "16 bit", "bmp"])
def test_one_value_a_pixel_in_every_form(tmp_path: Path, form: str) -> None:
    values = np.array([0, 7, 200], np.uint8)[LABELS]
    path = tmp_path / ("m.bmp" if form == "bmp" else "m.png")
    grey = Image.fromarray(values)
    if form == "16 bit":
        cv2.imwrite(str(path), values.astype(np.uint16))
    else:
        modes = {"grey": "L", "rgb": "RGB", "rgba": "RGBA", "grey alpha": "LA", "bmp": "L"}
        grey.convert(modes[form]).save(path)
    assert np.array_equal(read_labels(path, (0, 7, 200)), LABELS)


def test_a_bilevel_mask_has_the_values_0_and_255(tmp_path: Path) -> None:
    Image.fromarray((LABELS > 0).astype(np.uint8) * 255).convert("1").save(tmp_path / "m.png")
    assert np.array_equal(read_labels(tmp_path / "m.png", (0, 255)), LABELS > 0)


def test_real_palette_masks_agree_with_the_counts_of_their_manifest() -> None:
    root = os.environ.get("POCUS_DATA")
    if not root:
        pytest.skip("POCUS_DATA is not set: no real masks")
    folder = Path(root) / "segmentation" / "usgra_nerve_vessel"
    rows = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:20]
    for row in rows:
        file, *_, nerve, vessel = row.split(",")
        labels = read_labels(folder / "masks" / file, (0, 1, 2))
        assert ((labels == 1).sum(), (labels == 2).sum()) == (int(nerve), int(vessel)), file


def test_what_is_no_mask_is_refused_by_name(tmp_path: Path) -> None:
    colours = np.zeros((9, 7, 3), np.uint8)
    colours[2, 2] = 255, 0, 0
    Image.fromarray(colours).save(tmp_path / "colours.png")
    with pytest.raises(ConfigError, match=r"colours\.png is a colour image"):
        read_labels(tmp_path / "colours.png", (0, 1))
    (tmp_path / "text.png").write_text("nothing")
    with pytest.raises(ConfigError, match=r"text\.png cannot be decoded"):
        read_labels(tmp_path / "text.png", (0, 1))
    with pytest.raises(ConfigError, match=r"text\.png cannot be decoded"):
        read_image(tmp_path / "text.png")
    whole = (tmp_path / "whole.png").open("wb")
    with whole:
        whole.write(palette(tmp_path / "m.png").read_bytes()[:90])
    with pytest.raises(ConfigError, match=r"whole\.png cannot be decoded"):
        read_labels(tmp_path / "whole.png", (0, 1, 2))
    with pytest.raises(ConfigError, match=r"m\.png holds the values \[2\].*\[0, 1\]"):
        read_labels(tmp_path / "m.png", (0, 1))
    with pytest.raises(ConfigError, match=r"m\.png is \(9, 7\), its image i\.png \(9, 8\)"):
        read_labels(tmp_path / "m.png", (0, 1, 2), (9, 8, 3), Path("i.png"))


def test_images_keep_their_colours_and_pairs_are_grey(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "i.png")
    Image.fromarray(rgb[..., 0]).save(tmp_path / "g.png")
    assert np.array_equal(read_image(tmp_path / "i.png"), rgb)
    assert np.array_equal(read_image(tmp_path / "g.png"), rgb[..., 0])
    pair = PairPaths(image=tmp_path / "i.png", mask=palette(tmp_path / "m.png"), held_out=False)
    found = read_pairs([pair], (0, 1, 2))
    assert found.frames[0].image.ndim == 2
    assert np.array_equal(found.masks[0], LABELS)
